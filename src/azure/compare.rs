//! Whether what is there is what was sent. Pure.

use serde_json::Value;

/// Where what Azure has contradicts what was sent: the path of the first such value. What Azure does not repeat, and
/// what it adds, is no contradiction; of a list, each element that was sent must be there in its place.
pub fn contradiction(sent: &Value, found: &Value) -> Option<String> {
    match (sent, found) {
        (_, Value::Null) => None,
        (Value::Object(sent), Value::Object(found)) => sent.iter().find_map(|(name, value)| {
            let there = found
                .iter()
                .find(|(other, _)| other.eq_ignore_ascii_case(name));
            let inner = contradiction(value, there?.1)?;
            Some(format!("{name}{}{inner}", dot(&inner)))
        }),
        (Value::Array(sent), Value::Array(found)) => {
            if sent.len() != found.len() {
                return Some(String::new());
            }
            let mut pairs = sent.iter().zip(found).enumerate();
            pairs.find_map(|(place, (sent, found))| {
                let inner = contradiction(sent, found)?;
                Some(format!("{place}{}{inner}", dot(&inner)))
            })
        }
        (Value::String(sent), Value::String(found)) => (!alike(sent, found)).then(String::new),
        (sent, found) => (sent != found).then(String::new),
    }
}

const fn dot(inner: &str) -> &'static str {
    if inner.is_empty() { "" } else { "." }
}

/// Azure changes the case of ids and the spaces of regions, and leaves out the query of a source.
fn alike(sent: &str, found: &str) -> bool {
    let plain = |text: &str| {
        let text = text.split('?').next().unwrap_or_default();
        text.replace(' ', "").to_ascii_lowercase()
    };
    plain(sent) == plain(found)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_azure_adds_or_leaves_out_is_no_contradiction() {
        let sent = json!({ "location": "westeurope", "properties": { "creationData": { "sourceUri": "https://a/b" } } });
        for found in [
            json!({}),
            json!({ "location": "West Europe", "id": "/x" }),
            json!({ "properties": { "creationData": { "sourceUri": "https://a/b?sig=s" }, "diskState": "Unattached" } }),
        ] {
            assert_eq!(contradiction(&sent, &found), None, "{found}");
        }
    }

    #[test]
    fn another_value_anywhere_is_one_and_is_named() {
        let sent = json!({ "properties": { "dataDisks": [{ "lun": 0, "id": "a" }, { "lun": 1, "id": "b" }] } });
        let found = |value: Value| json!({ "properties": { "dataDisks": value } });
        let other = found(json!([{ "lun": 0, "id": "A" }, { "lun": 1, "id": "c" }]));
        assert_eq!(
            contradiction(&sent, &other).as_deref(),
            Some("properties.dataDisks.1.id")
        );
        let fewer = found(json!([{ "lun": 0, "id": "a" }]));
        assert_eq!(
            contradiction(&sent, &fewer).as_deref(),
            Some("properties.dataDisks")
        );
    }
}
