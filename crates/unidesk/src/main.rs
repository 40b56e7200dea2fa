fn main() -> std::process::ExitCode {
    unidesk::main()
}
