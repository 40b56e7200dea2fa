//! What each statement cost per task: where to look first.

use crate::database::{Counters, Statement};

/// A table in Markdown, the dearest first.
pub fn table(counters: &Counters, tasks: usize) -> String {
    let tasks = tasks as f64;
    let mut all: Vec<(&String, &Statement)> = counters.statements.iter().collect();
    all.sort_by(|(_, one), (_, other)| other.exec_ms.total_cmp(&one.exec_ms));
    let total: f64 = all.iter().map(|(_, statement)| statement.exec_ms).sum();
    let mut out = format!(
        "{} tasks; {:.3} statements, {:.2} row writes, {:.0} bytes of WAL, {:.3} commits a task; {:.3} ms in statements a task\n\n\
         | ms/task | share | calls/task | rows/task | rows/call | ms/call | buffers/task | WAL bytes/task | statement |\n\
         |---|---|---|---|---|---|---|---|---|\n",
        tasks as u64,
        counters.calls() as f64 / tasks,
        counters.row_writes() as f64 / tasks,
        counters.wal_bytes as f64 / tasks,
        counters.commits as f64 / tasks,
        total / tasks,
    );
    for (text, statement) in all {
        let calls = statement.calls as f64;
        out.push_str(&format!(
            "| {:.4} | {:.1} % | {:.4} | {:.3} | {:.1} | {:.3} | {:.1} | {:.0} | `{}` |\n",
            statement.exec_ms / tasks,
            100.0 * statement.exec_ms / total.max(f64::MIN_POSITIVE),
            calls / tasks,
            statement.rows as f64 / tasks,
            statement.rows as f64 / calls,
            statement.exec_ms / calls,
            statement.buffers as f64 / tasks,
            statement.wal_bytes as f64 / tasks,
            one_line(text),
        ));
    }
    out.push_str("\n| table | inserted/task | updated/task | of these HOT | deleted/task |\n|---|---|---|---|---|\n");
    for (name, writes) in &counters.tables {
        out.push_str(&format!(
            "| {name} | {:.3} | {:.3} | {:.3} | {:.3} |\n",
            writes.inserted as f64 / tasks,
            writes.updated as f64 / tasks,
            writes.hot as f64 / tasks,
            writes.deleted as f64 / tasks,
        ));
    }
    out
}

fn one_line(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|");
    line.chars().take(160).collect()
}
