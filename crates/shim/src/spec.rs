//! What to run, as the agent wrote it: `key=value` texts, each ended by a NUL, which no argument or variable can contain.

use std::{ffi::CString, io, path::PathBuf};

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) argv: Vec<CString>,
    /// `NAME=value`: the whole environment of the process.
    pub(crate) env: Vec<CString>,
    pub(crate) cwd: String,
    /// User and group to become; None: the one that runs the shim.
    pub(crate) uid: Option<u32>,
    pub(crate) stop_signal: i32,
    /// Of the whole tree. 0: no limit.
    pub(crate) memory_limit_bytes: u64,
    pub(crate) memory_period_ms: u64,
    /// Processes that the kernel had killed for lack of memory when this was written.
    pub(crate) kernel_kills: u64,
    /// Bytes of output kept, both streams together.
    pub(crate) log_limit_bytes: u64,
    pub(crate) max_processes: Option<u64>,
    pub(crate) max_open_files: Option<u64>,
    pub(crate) has_network: bool,
    /// Of exclusive work: the file that says when it was renewed, and for how long that is good.
    pub(crate) lease_file: Option<PathBuf>,
    pub(crate) lease_period_ms: u64,
    pub(crate) lease_grace_ms: u64,
}

impl Spec {
    pub(crate) fn parse(bytes: &[u8]) -> io::Result<Self> {
        let mut spec = Self { has_network: true, memory_period_ms: 200, ..Self::default() };
        let bytes = bytes.strip_suffix(b"\0").ok_or_else(|| invalid("the spec is cut short"))?;
        for entry in bytes.split(|byte| *byte == 0) {
            let at = entry.iter().position(|byte| *byte == b'=').ok_or_else(|| invalid("a line without a value"))?;
            let (key, value) = (&entry[..at], &entry[at + 1..]);
            match key {
                b"arg" => spec.argv.push(CString::new(value)?),
                b"env" => spec.env.push(CString::new(value)?),
                b"cwd" => spec.cwd = text(value)?.to_owned(),
                b"uid" => spec.uid = Some(number(value)? as u32),
                b"stop_signal" => spec.stop_signal = number(value)? as i32,
                b"memory_limit_bytes" => spec.memory_limit_bytes = number(value)?,
                b"memory_period_ms" => spec.memory_period_ms = number(value)?.max(10),
                b"kernel_kills" => spec.kernel_kills = number(value)?,
                b"log_limit_bytes" => spec.log_limit_bytes = number(value)?,
                b"max_processes" => spec.max_processes = Some(number(value)?),
                b"max_open_files" => spec.max_open_files = Some(number(value)?),
                b"lease_file" => spec.lease_file = Some(text(value)?.into()),
                b"lease_period_ms" => spec.lease_period_ms = number(value)?,
                b"lease_grace_ms" => spec.lease_grace_ms = number(value)?,
                b"network" => spec.has_network = value != b"none",
                // Ignoring what a newer agent asks for could drop a limit.
                _ => return Err(invalid("a key that this version does not know")),
            }
        }
        if spec.argv.is_empty() || spec.cwd.is_empty() {
            return Err(invalid("no command or no directory"));
        }
        Ok(spec)
    }
}

fn text(value: &[u8]) -> io::Result<&str> {
    std::str::from_utf8(value).map_err(|_| invalid("a path that is not UTF-8"))
}
fn number(value: &[u8]) -> io::Result<u64> {
    text(value)?.parse().map_err(|_| invalid("a number was expected"))
}
fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the spec can't be read: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_and_variables_arrive_as_they_were_written() {
        let spec =
            Spec::parse(b"arg=echo\0arg=\0arg=a=b\nc\xff\0env=X==\0cwd=/w\0uid=7\0network=none\0").expect("parses");
        assert_eq!(spec.argv, [c"echo", c"", c"a=b\nc\xff"].map(CString::from));
        assert_eq!(spec.env, [CString::from(c"X==")]);
        assert_eq!((spec.cwd.as_str(), spec.uid, spec.has_network), ("/w", Some(7), false));
    }

    #[test]
    fn a_spec_that_is_not_whole_or_not_understood_runs_nothing() {
        for bad in
            [&b""[..], b"arg=x\0cwd=/w", b"arg=x\0", b"cwd=/w\0", b"arg=x\0cwd=/w\0gpu=1\0", b"arg=x\0cwd=/w\0uid=-1\0"]
        {
            assert!(Spec::parse(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }
}
