//! Values in columns of type `json` and `jsonb`. They travel as text: a tree of each value in between would cost more than all else that
//! a report does.

use crate::StoreError;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};
use sqlx::types::Json;

/// What such a column holds, not looked into.
pub(crate) type JsonText = Json<Box<RawValue>>;

/// Errors: [`StoreError::Corrupt`], it was written by hand or by a newer version.
pub(crate) fn read_json<T: DeserializeOwned>(json: JsonText) -> Result<T, StoreError> {
    serde_json::from_str(json.0.get()).map_err(|error| StoreError::Corrupt(error.to_string()))
}

/// PostgreSQL's JSON can't hold a NUL, and what a node says may have one: it is left out.
pub(crate) fn write_json<T: Serialize + ?Sized>(value: &T) -> JsonText {
    const SERIALIZABLE: &str = "our values are maps with string keys, which JSON can hold";
    let json = serde_json::value::to_raw_value(value).expect(SERIALIZABLE);
    if !json.get().contains("\\u0000") {
        return Json(json);
    }
    let mut tree = serde_json::to_value(value).expect(SERIALIZABLE);
    strip_nul(&mut tree);
    Json(serde_json::value::to_raw_value(&tree).expect(SERIALIZABLE))
}

/// [`write_json`] for lists: an array of texts, cast to `json` where it is stored, since the driver's arrays of JSON are always of `jsonb`.
pub(crate) fn write_text<T: Serialize + ?Sized>(value: &T) -> String {
    String::from(Box::<str>::from(write_json(value).0))
}

fn strip_nul(value: &mut Value) {
    match value {
        Value::String(text) if text.contains('\0') => *text = text.replace('\0', ""),
        Value::Array(items) => items.iter_mut().for_each(strip_nul),
        Value::Object(map) => {
            if map.keys().any(|key| key.contains('\0')) {
                *map = std::mem::take(map).into_iter().map(|(key, value)| (key.replace('\0', ""), value)).collect();
            }
            map.values_mut().for_each(strip_nul);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_nul_is_left_out_and_what_only_looks_like_one_stays() {
        let written = |value: Value| read_json::<Value>(write_json(&value)).expect("it was just written");
        assert_eq!(written(json!({"a\0b": ["c\0", {"d": "\0"}]})), json!({"ab": ["c", {"d": ""}]}));
        let looks = json!({"path": "C:\\u0000", "plain": "none"});
        assert_eq!(written(looks.clone()), looks);
    }
}
