//! Reads one JSON object field by field and collects every fault, each with its pointer.

use crate::{
    fault::{Fault, did_you_mean},
    quantity,
    source::quote,
};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

pub(super) struct Reader<'a> {
    object: Option<&'a Map<String, Value>>,
    pointer: String,
}

pub(super) type Faults = Vec<Fault>;

impl<'a> Reader<'a> {
    /// Opens an object and names the fields in it that nobody knows.
    pub(super) fn open(value: &'a Value, pointer: &str, known: &[&str], faults: &mut Faults) -> Self {
        let object = value.as_object();
        match object {
            None if value.is_null() => {}
            None => faults.push(Fault::new(
                pointer,
                "wrong_type",
                format!("An object is expected here, not {}.", kind(value)),
            )),
            Some(object) => {
                for name in object.keys().filter(|name| !known.contains(&name.as_str())) {
                    let fault = Fault::new(
                        format!("{pointer}/{}", escape(name)),
                        "unknown_field",
                        format!("{} is no field here.", quote(name)),
                    );
                    faults.push(match did_you_mean(name, known.iter().copied()) {
                        Some(near) => fault.hint(format!("did you mean {near}?")),
                        None => fault.hint(format!("known fields: {}", known.join(", "))),
                    });
                }
            }
        }
        Self { object, pointer: pointer.to_owned() }
    }

    pub(super) fn at(&self, name: &str) -> String {
        format!("{}/{}", self.pointer, escape(name))
    }
    pub(super) fn get(&self, name: &str) -> Option<&'a Value> {
        self.object?.get(name).filter(|value| !value.is_null())
    }
    pub(super) fn wrong(&self, name: &str, expected: &str, value: &Value) -> Fault {
        Fault::new(self.at(name), "wrong_type", format!("{expected} is expected here, not {}.", kind(value)))
    }

    pub(super) fn text(&self, name: &str, max_len: usize, faults: &mut Faults) -> Option<&'a str> {
        let value = self.get(name)?;
        let Some(text) = value.as_str() else {
            faults.push(self.wrong(name, "A string", value));
            return None;
        };
        check_text(text, &self.at(name), max_len, faults).then_some(text)
    }

    pub(super) fn flag(&self, name: &str, faults: &mut Faults) -> bool {
        match self.get(name) {
            None => false,
            Some(Value::Bool(flag)) => *flag,
            Some(other) => {
                faults.push(self.wrong(name, "true or false", other));
                false
            }
        }
    }

    /// A whole number within bounds.
    pub(super) fn whole(&self, name: &str, min: i64, max: i64, faults: &mut Faults) -> Option<i64> {
        let value = self.get(name)?;
        match value.as_i64() {
            Some(number) if (min..=max).contains(&number) => Some(number),
            _ if value.is_number() => {
                faults.push(Fault::new(
                    self.at(name),
                    "out_of_range",
                    format!("{value} is not a whole number from {min} to {max}."),
                ));
                None
            }
            _ => {
                faults.push(self.wrong(name, "A whole number", value));
                None
            }
        }
    }

    /// Bytes: an integer, or a text such as `16GiB`.
    pub(super) fn bytes(&self, name: &str, faults: &mut Faults) -> Option<u64> {
        const MAX: u64 = 1 << 53;
        let value = self.get(name)?;
        let bytes = match value {
            Value::Number(number) => number.as_u64(),
            Value::String(text) => quantity::parse_bytes(text),
            _ => None,
        };
        match bytes {
            Some(bytes) if bytes <= MAX => Some(bytes),
            _ => {
                faults.push(
                    Fault::new(self.at(name), "bad_quantity", format!("{} is not a size.", shown(value)))
                        .hint("16GiB, 512MiB, or bytes as an integer"),
                );
                None
            }
        }
    }

    /// Milliseconds: seconds as a number, or a text such as `6h`.
    pub(super) fn duration_ms(&self, name: &str, faults: &mut Faults) -> Option<u64> {
        const TEN_YEARS_MS: u64 = 10 * 366 * 86_400_000;
        let value = self.get(name)?;
        let ms = match value {
            Value::Number(number) => quantity::parse_duration_ms(&number.to_string()),
            Value::String(text) => quantity::parse_duration_ms(text),
            _ => None,
        };
        match ms {
            Some(ms) if ms <= TEN_YEARS_MS => Some(ms),
            _ => {
                faults.push(
                    Fault::new(self.at(name), "bad_duration", format!("{} is not a duration.", shown(value)))
                        .hint("30s, 90m, 6h, 2d, or seconds as a number"),
                );
                None
            }
        }
    }

    /// An object of short texts; numbers and flags are taken as their text.
    pub(super) fn texts(&self, name: &str, max_len: usize, faults: &mut Faults) -> BTreeMap<String, String> {
        let mut map = BTreeMap::new();
        let Some(value) = self.get(name) else { return map };
        let Some(object) = value.as_object() else {
            faults.push(self.wrong(name, "An object of strings", value));
            return map;
        };
        for (key, value) in object {
            let pointer = format!("{}/{}", self.at(name), escape(key));
            let text = match value {
                Value::String(text) => text.clone(),
                Value::Number(_) | Value::Bool(_) => value.to_string(),
                _ => {
                    faults.push(Fault::new(
                        pointer,
                        "wrong_type",
                        format!("A string is expected here, not {}.", kind(value)),
                    ));
                    continue;
                }
            };
            if check_text(key, &pointer, 256, faults) && check_text(&text, &pointer, max_len, faults) {
                map.insert(key.clone(), text);
            }
        }
        map
    }

    pub(super) fn set(&self, name: &str, faults: &mut Faults) -> BTreeSet<String> {
        self.list(name, 256, faults).into_iter().collect()
    }

    pub(super) fn list(&self, name: &str, max_len: usize, faults: &mut Faults) -> Vec<String> {
        let Some(value) = self.get(name) else { return Vec::new() };
        let Some(items) = value.as_array() else {
            faults.push(self.wrong(name, "A list of strings", value));
            return Vec::new();
        };
        let mut list = Vec::new();
        for (i, item) in items.iter().enumerate() {
            let pointer = format!("{}/{i}", self.at(name));
            match item.as_str() {
                Some(text) if check_text(text, &pointer, max_len, faults) => list.push(text.to_owned()),
                Some(_) => {}
                None => faults.push(Fault::new(
                    pointer,
                    "wrong_type",
                    format!("A string is expected here, not {}.", kind(item)),
                )),
            }
        }
        list
    }

    pub(super) fn one_of(&self, name: &str, words: &[&str], faults: &mut Faults) -> Option<&'a str> {
        let text = self.text(name, 64, faults)?;
        if words.contains(&text) {
            return Some(text);
        }
        faults.push(Fault::new(
            self.at(name),
            "unknown_value",
            format!("{} is not one of {}.", quote(text), words.join(", ")),
        ));
        None
    }
}

/// PostgreSQL's text can't hold a NUL, and no field needs one.
fn check_text(text: &str, pointer: &str, max_len: usize, faults: &mut Faults) -> bool {
    if text.contains('\0') {
        faults.push(Fault::new(pointer, "bad_text", "The text has a NUL character."));
        return false;
    }
    if text.len() > max_len {
        faults.push(Fault::new(
            pointer,
            "too_long",
            format!("The text has {} bytes; at most {max_len} are taken.", text.len()),
        ));
        return false;
    }
    true
}

pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => quote(text),
        Value::Number(number) => number.to_string(),
        other => kind(other).to_owned(),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// A field's name inside a JSON Pointer.
fn escape(name: &str) -> String {
    let cut: String = name.chars().take(80).collect();
    cut.replace('~', "~0").replace('/', "~1")
}
