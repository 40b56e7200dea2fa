//! How long artifacts are kept: rules of a project, each for some of its artifacts. What no rule concerns is kept for ever.

use crate::{artifact::MAX_NAME, fault::Fault, spec::Matcher};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The most rules of one project.
pub const MOST_RULES: usize = 100;
/// A rule that removed everything at once would most often be a mistake.
pub const LEAST_AGE_MS: u64 = 60_000;

/// Which artifacts are removed. All that is said must hold of one; of how long at least one thing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionRule {
    /// Of these names: `imagenet`, `nightly-*`. None: of all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// With all of these labels. A value of None: whatever it is.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, Option<String>>,
    /// Never the newest so many versions of a name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_last: Option<u32>,
    /// Only what has been ready for longer, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub older_than_ms: Option<u64>,
}

/// What a rule looks at.
#[derive(Clone, Copy, Debug)]
pub struct Kept<'a> {
    pub name: &'a str,
    pub labels: &'a BTreeMap<String, String>,
    /// For how long it has been ready.
    pub age_ms: u64,
    /// Versions of its name that are ready and newer, counted up to the largest `keep_last` of its project's rules.
    pub newer: u32,
}

impl RetentionRule {
    /// All that is wrong with it, by its place in the body.
    pub fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.keep_last.is_none() && self.older_than_ms.is_none() {
            let detail = "A rule says how many versions are kept, or for how long, or both.";
            faults.push(Fault::new("#", "required", detail).hint("keep_last: 3, or older_than: 30d"));
        }
        if let Some(name) = &self.name {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-*?[]{},!".contains(&byte);
            let is_sound = (1..=MAX_NAME).contains(&name.len()) && name.bytes().all(is_plain);
            if !is_sound || Matcher::new(name).is_err() {
                let detail = format!("{name:?} is no name of artifacts, and no pattern of names.");
                faults.push(Fault::new("#/name", "bad_name", detail).hint("imagenet, or nightly-*"));
            }
        }
        if self.keep_last == Some(0) && self.older_than_ms.is_none() {
            let fault = Fault::new("#/keep_last", "out_of_range", "This would remove everything at once.");
            faults.push(fault.hint("keep_last: 1 keeps the newest version"));
        }
        if self.older_than_ms.is_some_and(|age| age < LEAST_AGE_MS) {
            faults.push(Fault::new("#/older_than", "out_of_range", "A rule waits for at least one minute."));
        }
        faults
    }

    /// Ready to be asked about many.
    pub fn compile(&self) -> CompiledRule<'_> {
        // One that can't be read concerns nothing: what is in doubt is kept.
        let name = self.name.as_ref().map(|name| Matcher::new(name).ok());
        CompiledRule { rule: self, name }
    }
}

/// A rule with its pattern.
pub struct CompiledRule<'a> {
    rule: &'a RetentionRule,
    name: Option<Option<Matcher>>,
}

impl CompiledRule<'_> {
    pub fn removes(&self, kept: &Kept<'_>) -> bool {
        let rule = self.rule;
        let is_named = match &self.name {
            None => true,
            Some(Some(matcher)) => matcher.takes(kept.name.as_bytes()),
            Some(None) => false,
        };
        let is_labelled = rule.labels.iter().all(|(key, wanted)| {
            kept.labels.get(key).is_some_and(|has| wanted.as_ref().is_none_or(|wanted| wanted == has))
        });
        let is_limited = rule.keep_last.is_some() || rule.older_than_ms.is_some();
        is_named
            && is_labelled
            && is_limited
            && rule.keep_last.is_none_or(|last| kept.newer >= last)
            && rule.older_than_ms.is_none_or(|age| kept.age_ms > age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u64 = 86_400_000;

    fn removes(rule: &RetentionRule, name: &str, label: Option<(&str, &str)>, days: u64, newer: u32) -> bool {
        let labels = label.map(|(key, value)| (key.to_owned(), value.to_owned())).into_iter().collect();
        rule.compile().removes(&Kept { name, labels: &labels, age_ms: days * DAY_MS + 1, newer })
    }

    #[test]
    fn the_newest_versions_stay_and_so_does_what_is_young() {
        let last = RetentionRule { keep_last: Some(2), ..RetentionRule::default() };
        assert!(!removes(&last, "a", None, 900, 1) && removes(&last, "a", None, 0, 2));
        let old = RetentionRule { older_than_ms: Some(30 * DAY_MS), ..RetentionRule::default() };
        assert!(!removes(&old, "a", None, 29, 9) && removes(&old, "a", None, 30, 0));
        // Both: neither the newest nor what is young.
        let both = RetentionRule { keep_last: Some(2), older_than_ms: Some(30 * DAY_MS), ..RetentionRule::default() };
        assert!(
            !removes(&both, "a", None, 30, 1) && !removes(&both, "a", None, 29, 2) && removes(&both, "a", None, 30, 2)
        );
    }

    #[test]
    fn a_rule_concerns_the_names_and_labels_that_it_says() {
        let mut rule =
            RetentionRule { name: Some("nightly-*".to_owned()), keep_last: Some(1), ..RetentionRule::default() };
        assert!(removes(&rule, "nightly-vit", None, 1, 1) && !removes(&rule, "release", None, 1, 1));
        rule.labels.insert("run".to_owned(), None);
        assert!(!removes(&rule, "nightly-vit", None, 1, 1) && removes(&rule, "nightly-vit", Some(("run", "7")), 1, 1));
        rule.labels.insert("run".to_owned(), Some("8".to_owned()));
        assert!(!removes(&rule, "nightly-vit", Some(("run", "7")), 1, 1));
    }

    #[test]
    fn what_would_remove_everything_is_no_rule() {
        let codes = |rule: RetentionRule| rule.faults().into_iter().map(|fault| fault.pointer).collect::<Vec<_>>();
        assert_eq!(codes(RetentionRule::default()), ["#"]);
        assert_eq!(codes(RetentionRule { keep_last: Some(0), ..RetentionRule::default() }), ["#/keep_last"]);
        assert_eq!(codes(RetentionRule { older_than_ms: Some(1), ..RetentionRule::default() }), ["#/older_than"]);
        let bad_name = RetentionRule { name: Some("a/b".to_owned()), keep_last: Some(1), ..RetentionRule::default() };
        assert_eq!(codes(bad_name), ["#/name"]);
        let sound = RetentionRule { keep_last: Some(0), older_than_ms: Some(DAY_MS), ..RetentionRule::default() };
        assert_eq!(codes(sound), [] as [String; 0]);
        // Whatever a database holds, what is in doubt is kept.
        let broken = RetentionRule { name: Some("a[".to_owned()), keep_last: Some(0), ..RetentionRule::default() };
        assert!(!removes(&broken, "a[", None, 9, 9) && !removes(&RetentionRule::default(), "a", None, 9, 9));
    }
}
