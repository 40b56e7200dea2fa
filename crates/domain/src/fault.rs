//! What is wrong with a request, field by field: all faults at once, each with where it is and what to do.

use serde::{Deserialize, Serialize};

/// One fault of one field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// A JSON Pointer as a URI fragment: `#/requirements/memory`. Empty when the fault is not in the body.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub pointer: String,
    /// Instead of the pointer: a parameter of the path or the query.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub parameter: Option<String>,
    /// Instead of the pointer: a header.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub header: Option<String>,
    /// Stable word for programs: `required`, `unknown_field`, `bad_quantity`, ...
    pub code: String,
    /// One sentence for a person.
    pub detail: String,
    /// What to do, where there is something to do.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hint: Option<String>,
}

impl Fault {
    pub fn new(pointer: impl Into<String>, code: &str, detail: impl Into<String>) -> Self {
        let pointer = pointer.into();
        Self { pointer, parameter: None, header: None, code: code.to_owned(), detail: detail.into(), hint: None }
    }
    pub fn parameter(name: &str, code: &str, detail: impl Into<String>) -> Self {
        Self { parameter: Some(name.to_owned()), ..Self::new("", code, detail) }
    }
    pub fn header(name: &str, code: &str, detail: impl Into<String>) -> Self {
        Self { header: Some(name.to_owned()), ..Self::new("", code, detail) }
    }
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// The known name that `typed` most likely meant, if one is near: at most two edits, or one for short names.
pub fn did_you_mean<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = if typed.len() <= 4 { 1 } else { 2 };
    known
        .into_iter()
        .map(|name| (edit_distance(typed, name), name))
        .filter(|(distance, name)| *distance <= allowed || name.starts_with(typed) && typed.len() >= 3)
        .min()
        .map(|(_, name)| name)
}

fn edit_distance(a: &str, b: &str) -> usize {
    // Names are short; a hostile one is not worth a table.
    if a.len() > 64 || b.len() > 64 {
        return usize::MAX;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_near_name_is_suggested_and_a_far_one_is_not() {
        let known = ["memory", "cpu_cores", "gpus"];
        assert_eq!(did_you_mean("memroy", known), Some("memory"));
        assert_eq!(did_you_mean("gpu", known), Some("gpus"));
        assert_eq!(did_you_mean("colour", known), None);
    }
}
