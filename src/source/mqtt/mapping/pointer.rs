//! JSON pointers (RFC 6901) with selectors for arrays of named values: `/data[name=HR][unit=bpm]/value`.

use serde_json::Value;

/// A checked pointer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pointer(Vec<Step>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    /// A key of an object, or an index of an array.
    Key(String),
    /// The first element of an array all of whose named fields have these values.
    Select(Vec<(String, String)>),
}

impl Pointer {
    /// Reads a pointer; the empty one and `/` are the whole document.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let mut steps = Vec::new();
        if text.is_empty() || text == "/" {
            return Ok(Self(steps));
        }
        let mut rest = text.strip_prefix('/').ok_or("a pointer begins with `/`")?;
        loop {
            let end = rest.find(['/', '[']).unwrap_or(rest.len());
            let (key, tail) = rest.split_at(end);
            // `/[name=HR]`: the document itself is the array.
            if !(key.is_empty() && tail.starts_with('[')) {
                steps.push(Step::Key(key.replace("~1", "/").replace("~0", "~")));
            }
            rest = tail;
            let mut fields = Vec::new();
            while let Some(tail) = rest.strip_prefix('[') {
                let (selector, tail) = tail.split_once(']').ok_or("a selector ends with `]`")?;
                let (field, value) = selector
                    .split_once('=')
                    .filter(|(f, _)| !f.is_empty())
                    .ok_or("a selector is `[field=value]`")?;
                fields.push((field.to_owned(), value.to_owned()));
                rest = tail;
            }
            if !fields.is_empty() {
                steps.push(Step::Select(fields));
            }
            match rest.strip_prefix('/') {
                Some(tail) => rest = tail,
                None if rest.is_empty() => return Ok(Self(steps)),
                None => return Err("after a selector comes `/`, another selector or the end"),
            }
        }
    }

    /// What the pointer points at. `None`: nothing, or `null`.
    pub fn find<'v>(&self, document: &'v Value) -> Option<&'v Value> {
        let mut value = document;
        for step in &self.0 {
            value = match (step, value) {
                (Step::Key(key), Value::Object(object)) => object.get(key)?,
                (Step::Key(key), Value::Array(array)) => array.get(key.parse::<usize>().ok()?)?,
                (Step::Select(fields), Value::Array(array)) => array
                    .iter()
                    .find(|element| fields.iter().all(|(field, wanted)| is(element.get(field), wanted)))?,
                _ => return None,
            };
        }
        (!value.is_null()).then_some(value)
    }
}

/// Whether a value, written as text, is the wanted one.
fn is(value: Option<&Value>, wanted: &str) -> bool {
    match value {
        Some(Value::String(text)) => text == wanted,
        Some(Value::Number(number)) => number.to_string() == wanted,
        Some(Value::Bool(flag)) => wanted == if *flag { "true" } else { "false" },
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn finding() {
        let document = json!({
            "a/b": 1, "m~n": 2, "none": null, "list": [10, 20],
            "data": [
                {"name": "SpO2", "value": 98},
                {"name": "HR", "unit": "beats/min", "channel": 1, "value": 71},
                {"name": "HR", "unit": "beats/min", "channel": 2, "value": 72},
            ],
        });
        for (pointer, expected) in [
            ("/a~1b", Some(json!(1))),
            ("/m~0n", Some(json!(2))),
            ("/none", None),
            ("/absent/deeper", None),
            ("/list/1", Some(json!(20))),
            ("/list/2", None),
            ("/list/x", None),
            ("/data[name=HR]/value", Some(json!(71))),
            ("/data[name=HR][channel=2]/value", Some(json!(72))),
            ("/data[unit=beats/min]/value", Some(json!(71))),
            ("/data[name=RR]/value", None),
            ("", Some(document.clone())),
            ("/", Some(document.clone())),
        ] {
            assert_eq!(Pointer::parse(pointer).unwrap().find(&document), expected.as_ref(), "{pointer}");
        }
        let array = json!([{"n": "x", "v": 1}, {"n": "y", "v": 2}]);
        assert_eq!(Pointer::parse("/[n=y]/v").unwrap().find(&array), Some(&json!(2)));
    }

    #[test]
    fn what_is_no_pointer() {
        for text in ["bpm", "/a[b", "/a[b]", "/a[=b]", "/a[b=c]d"] {
            assert!(Pointer::parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,40}") {
            if let Ok(pointer) = Pointer::parse(&text) {
                let _ = pointer.find(&json!([{"a": [1]}]));
            }
        }
    }
}
