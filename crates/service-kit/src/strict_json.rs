//! JSON without its traps. A key that stands twice would be one value here and another one elsewhere, and PostgreSQL's text
//! can't hold a NUL: both are refused where they come in, with their place.

use serde::de::{Deserialize, DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value, error::Category};
use std::fmt;

/// Why a body is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JsonFault {
    pub line: usize,
    pub column: usize,
    /// A few words, without the place.
    pub what: String,
    /// It is JSON, but of a kind that is refused.
    pub is_json: bool,
}

/// Reads one JSON value and nothing after it.
pub fn parse(bytes: &[u8]) -> Result<Value, JsonFault> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value = Strict.deserialize(&mut reader).and_then(|value| reader.end().map(|()| value));
    value.map_err(|error| {
        let text = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        let what = text.strip_suffix(&place).unwrap_or(&text).to_owned();
        let is_deep = what.starts_with("recursion limit");
        JsonFault {
            line: error.line(),
            column: error.column(),
            is_json: is_deep || error.classify() == Category::Data,
            what: if is_deep { "it is nested deeper than 127 levels".to_owned() } else { what },
        }
    })
}

struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

fn without_nul<E: Error>(text: &str) -> Result<&str, E> {
    if text.contains('\0') { Err(E::custom("a text has a NUL character")) } else { Ok(text) }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Bool(flag))
    }
    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(number.into())
    }
    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(number.into())
    }
    fn visit_f64<E: Error>(self, number: f64) -> Result<Value, E> {
        serde_json::Number::from_f64(number).map(Value::Number).ok_or_else(|| E::custom("a number is out of range"))
    }
    fn visit_str<E: Error>(self, text: &str) -> Result<Value, E> {
        without_nul(text).map(|text| Value::String(text.to_owned()))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Strict)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = entries.next_key::<Key>()? {
            let value = entries.next_value_seed(Strict)?;
            if map.contains_key(&key.0) {
                let cut: String = key.0.chars().take(80).collect();
                return Err(A::Error::custom(format!("the field {cut:?} is there twice")));
            }
            map.insert(key.0, value);
        }
        Ok(Value::Object(map))
    }
}

struct Key(String);

impl<'de> Deserialize<'de> for Key {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let key = String::deserialize(deserializer)?;
        without_nul::<D::Error>(&key)?;
        Ok(Self(key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(text: &str) -> JsonFault {
        parse(text.as_bytes()).expect_err(text)
    }

    #[test]
    fn plain_json_reads_as_it_does_elsewhere() {
        let text = r#"{"a": [1, -2, 2.5, 18446744073709551615, null, true, "é\n"], "b": {}}"#;
        assert_eq!(parse(text.as_bytes()).expect("good"), serde_json::from_str::<Value>(text).expect("good"));
    }

    #[test]
    fn a_fault_says_where_it_is() {
        let fault = fault("{\n\"a\": 1\n\"b\": 2}");
        assert_eq!((fault.line, fault.column, fault.is_json), (3, 1, false));
        assert_eq!(fault.what, "expected `,` or `}`");
    }

    #[test]
    fn what_others_would_read_differently_is_refused() {
        assert_eq!(fault(r#"{"a": {"b": 1, "b": 2}}"#).what, "the field \"b\" is there twice");
        for text in [r#"{"a": "x\u0000y"}"#, r#"{"x\u0000y": 1}"#] {
            assert!(fault(text).is_json && fault(text).what.contains("NUL"), "{text}");
        }
        let deep = fault(&"[".repeat(100_000));
        assert!(deep.is_json && deep.what.contains("deeper"), "{deep:?}");
        for text in ["1e400", r#""\ud800""#, "", "{} x", "{\"a\": 01}", "NaN"] {
            assert!(!fault(text).is_json, "{text}");
        }
        assert!(parse(b"\"\xff\"").is_err());
    }
}
