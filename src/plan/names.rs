//! Names in templates' tags that the context does not have.
//!
//! tera takes an unknown name in a condition for false, so that a slip of the pen in `{% if option.tls %}` would quietly
//! switch something off. Names below the tables that are the same for every template are therefore looked up here;
//! `set` variables, loop variables and `node` are tera's business.

use serde_json::{Map, Value};

/// Tables whose keys are all known when a role is planned. Below `param`, values are the user's own.
const TABLES: [&str; 4] = ["option", "network", "site", "param"];

/// The first name of a table in a `{% … %}` tag that is not there, with its line.
pub fn missing(text: &str, context: &Map<String, Value>) -> Option<(usize, String)> {
    let mut from = 0;
    while let Some(begin) = text[from..].find("{%").map(|at| from + at) {
        let end = text[begin..].find("%}").map_or(text.len(), |at| begin + at);
        for name in names(&text[begin + 2..end]) {
            let table = name.split('.').next().unwrap_or_default();
            if TABLES.contains(&table) && context.contains_key(table) && !is_there(&name, context) {
                return Some((1 + text[..begin].matches('\n').count(), name));
            }
        }
        from = end;
    }
    None
}

fn is_there(name: &str, context: &Map<String, Value>) -> bool {
    let mut table = context;
    for part in name.split('.') {
        match table.get(part) {
            None => return false,
            Some(Value::Object(inner)) => table = inner,
            // Lists and plain values have no names that could be known.
            Some(_) => return true,
        }
    }
    true
}

/// The dotted names of a tag, texts in quotes left out.
fn names(tag: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut name = String::new();
    let mut quote = None;
    for c in tag.chars().chain([' ']) {
        match quote {
            Some(open) if c == open => quote = None,
            Some(_) => {}
            None if c == '"' || c == '\'' || c == '`' => quote = Some(c),
            None if c.is_ascii_alphanumeric() || c == '_' || c == '.' => name.push(c),
            None => found.push(std::mem::take(&mut name)),
        }
    }
    found.retain(|name| name.contains('.'));
    found
}

#[cfg(test)]
mod tests {
    use super::missing;
    use serde_json::json;

    #[test]
    fn a_slip_in_a_condition_is_found_with_its_line() {
        let context = json!({ "option": { "tls": true }, "network": { "external": { "vip": null } }, "param": { "list": [1] } });
        let context = context.as_object().unwrap();
        assert_eq!(missing("a\n{% if not option.tsl and 1 %}", context), Some((2, "option.tsl".to_string())));
        let fine = "{% if option.tls or network.external.vip or param.list.0 == \"option.x\" %}{% for x in y %}{{ option.x }}";
        assert_eq!(missing(fine, context), None);
    }
}
