//! Whose fault a failed build is, and how to say it.

use super::transcript::{Transcript, step_of};
use crate::executor::Failure;
use domain::{outcome::FailureKind, source::DockerfilePath};

const DISK_FULL: [&str; 2] = ["no space left on device", "disk quota exceeded"];
/// A registry that can't be reached now, or is busy: another node, or the same one later, may well reach it.
const UNREACHABLE: [&str; 15] = [
    "dial tcp",
    "i/o timeout",
    "connection refused",
    "connection reset",
    "no such host",
    "server misbehaving",
    "temporary failure in name resolution",
    "tls handshake timeout",
    "client.timeout",
    "request canceled",
    "deadline exceeded",
    "toomanyrequests",
    "too many requests",
    "unexpected http status: 5",
    "unexpected eof",
];
const NO_SUCH_BASE: [&str; 8] = [
    "pull access denied",
    "manifest unknown",
    "repository does not exist",
    "no such image",
    "not found: does not exist",
    "insufficient_scope",
    "unauthorized",
    "manifest for",
];

/// BuildKit wanted credentials through a session that this agent does not open.
pub(super) fn wants_session(error: &str) -> bool {
    error.contains("no active session")
}

/// What was uploaded for the build lies in BuildKit's cache only, where another program's pruning may take it.
pub(super) fn lost_its_context(error: &str) -> bool {
    exit_code(error).is_none() && error.contains("context not found")
}

pub(super) fn kind_of(error: &str) -> FailureKind {
    let text = error.to_ascii_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| text.contains(word));
    // A command's own words are quoted in the text, so its exit code comes before what they might say.
    if exit_code(error).is_some() {
        FailureKind::BuildFailed
    } else if has(&DISK_FULL) || lost_its_context(error) {
        FailureKind::NodeError
    } else if has(&NO_SUCH_BASE) {
        FailureKind::BuildFailed
    } else if has(&UNREACHABLE) {
        FailureKind::NodeError
    } else {
        FailureKind::BuildFailed
    }
}

/// One sentence with the place and the evidence.
pub(super) fn describe(path: &DockerfilePath, dockerfile: &[u8], transcript: &Transcript) -> Failure {
    let error = transcript.error.as_deref().unwrap_or("the builder stopped without a word");
    let short = shorten(error);
    let kind = kind_of(error);
    if kind == FailureKind::NodeError {
        return Failure::new(kind, format!("The image of {} could not be built on this node: {short}", path.as_str()));
    }
    let lower = error.to_ascii_lowercase();
    if NO_SUCH_BASE.iter().any(|word| lower.contains(word)) && exit_code(error).is_none() {
        let step = transcript.step.as_deref().unwrap_or("FROM");
        return Failure::new(
            kind,
            format!(
                "{}: its base image can't be pulled ({step}): {short}. Check its name, and that this node may read it.",
                path.as_str()
            ),
        );
    }
    let mut message = format!("{} failed", path.as_str());
    if let Some((numbers, instruction)) = transcript.step.as_deref().and_then(step_of) {
        if let Some(line) = line_of(dockerfile, instruction) {
            message += &format!(" at line {line}");
        }
        message += &format!(", step {numbers} `{}`", cut(instruction, 160));
    }
    match exit_code(error) {
        Some(code) => message += &format!(": exit code {code}"),
        None => message += &format!(": {short}"),
    }
    if error.contains("exit code: 137") || error.contains("non-zero code: 137") {
        message += " (killed, likely for want of memory)";
    }
    if lower.contains("unknown instruction") && dockerfile.windows(2).any(|pair| pair == b"<<") {
        message += ". This Docker's builder does not know heredocs (`<<EOF`); they need Docker 23 or later";
    }
    if !transcript.tail.is_empty() {
        let tail: Vec<&str> = transcript.tail.iter().map(String::as_str).collect();
        message += &format!(". Last lines: {}", tail.join(" | "));
    }
    Failure::new(kind, message)
}

/// Of the failed command, where the builder names one.
pub(super) fn exit_code(error: &str) -> Option<i32> {
    let rest = error.rsplit_once("exit code: ").or_else(|| error.rsplit_once("non-zero code: "))?.1;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

fn shorten(error: &str) -> &str {
    let wrappers =
        ["failed to solve with frontend dockerfile.v0: ", "failed to create LLB definition: ", "failed to solve: "];
    let mut rest = error;
    while let Some(inner) = wrappers.iter().find_map(|wrapper| rest.strip_prefix(wrapper)) {
        rest = inner;
    }
    cut(rest.trim(), 600)
}

fn cut(text: &str, most: usize) -> &str {
    match text.char_indices().nth(most) {
        Some((end, _)) => &text[..end],
        None => text,
    }
}

/// The 1-based line where an instruction begins. Lines that end in a backslash are one instruction; blanks don't count.
fn line_of(dockerfile: &[u8], instruction: &str) -> Option<usize> {
    let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let wanted = squeeze(instruction);
    let text = String::from_utf8_lossy(dockerfile);
    let mut lines = text.lines().enumerate();
    while let Some((number, line)) = lines.next() {
        let mut logical = line.trim().to_owned();
        while logical.ends_with('\\') {
            logical.pop();
            let Some((_, next)) = lines.next() else { break };
            if !next.trim_start().starts_with('#') {
                logical = format!("{} {}", logical.trim_end(), next.trim());
            } else {
                logical.push('\\');
            }
        }
        let logical = squeeze(&logical);
        if !logical.is_empty() && !logical.starts_with('#') && logical.eq_ignore_ascii_case(&wanted) {
            return Some(number + 1);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_typo_is_the_users_fault_and_a_dead_registry_the_nodes() {
        for (error, kind) in [
            ("executor failed running [/bin/sh -c curl http://x: dial tcp]: exit code: 7", FailureKind::BuildFailed),
            ("The command '/bin/sh -c exit 5' returned a non-zero code: 5", FailureKind::BuildFailed),
            ("pull access denied for nosuch/image, repository does not exist", FailureKind::BuildFailed),
            ("dockerfile parse error line 2: unknown instruction: RUM", FailureKind::BuildFailed),
            ("Get \"https://r.example/v2/\": dial tcp: lookup r.example: no such host", FailureKind::NodeError),
            ("failed to copy: net/http: TLS handshake timeout", FailureKind::NodeError),
            ("write /var/lib/docker/x: no space left on device", FailureKind::NodeError),
        ] {
            assert_eq!(kind_of(error), kind, "{error}");
        }
    }

    #[test]
    fn the_message_names_file_line_step_code_and_last_words() {
        let mut transcript = Transcript::default();
        transcript.error = Some("executor failed running [/bin/sh -c make  x]: exit code: 2".into());
        transcript.step = Some("[2/3] RUN make  x".into());
        transcript.tail = ["cc: error".to_owned()].into();
        let path = DockerfilePath::parse("torch/Dockerfile").expect("a plain path");
        let failure = describe(&path, b"FROM a\n# why\nRUN make \\\n  x\n", &transcript);
        assert_eq!(
            failure.message,
            "torch/Dockerfile failed at line 3, step 2/3 `RUN make  x`: exit code 2. Last lines: cc: error"
        );
    }
}
