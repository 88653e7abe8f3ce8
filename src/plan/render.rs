//! Templates to text: tera, pure and strict.
//!
//! No clock, no random numbers, no environment; nothing is escaped. A name that is not there is an error with the
//! template's line and the names that are.

use super::names;
use crate::base::error::{Error, Result};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap};
use std::error::Error as _;
use std::path::{Path, PathBuf};

const LANGUAGE: &str = "correct it; what templates can say is in https://keats.github.io/tera/docs";

/// The templates of one overlay, parsed.
pub struct Templates<'a> {
    tera: tera::Tera,
    texts: &'a BTreeMap<String, String>,
    folder: &'a Path,
}

impl<'a> Templates<'a> {
    /// Parses every template of an overlay. `folder` is where they came from, for messages.
    ///
    /// # Errors
    /// A template's syntax, with its line.
    pub fn parse(texts: &'a BTreeMap<String, String>, folder: &'a Path) -> Result<Self> {
        let mut tera = tera::Tera::default();
        tera.autoescape_on(Vec::new());
        // The only built-in function that reads the build machine.
        tera.register_function("get_env", |_: &HashMap<String, tera::Value>| -> tera::Result<tera::Value> {
            Err(tera::Error::msg("a template cannot read the environment"))
        });
        tera.register_function("secret", secret);
        for (name, text) in texts {
            tera.add_raw_template(name, text).map_err(|error| syntax(&error, &file_of(folder, name)))?;
        }
        Ok(Self { tera, texts, folder })
    }

    /// Renders one template.
    ///
    /// # Errors
    /// An unknown name, or a value that a filter or test refuses; with the template's line.
    pub fn render(&self, name: &str, context: &Map<String, Value>) -> Result<String> {
        let file = file_of(self.folder, name);
        if !self.texts.contains_key(name) {
            let known: Vec<&str> = self.texts.keys().map(String::as_str).collect();
            return Err(
                Error::new(format!("there is no template {}", file.display())).next(format!("use one of: {}", known.join(", ")))
            );
        }
        let values =
            tera::Context::from_value(Value::Object(context.clone())).map_err(|error| Error::new(error).at(&file, None))?;
        self.tera.render(name, &values).map_err(|error| self.explain(&error, name, context))
    }

    fn explain(&self, error: &tera::Error, name: &str, context: &Map<String, Value>) -> Error {
        let message = innermost(error);
        // What the template itself does not say, one that it includes does.
        let place = |word: &str| {
            let shared = self.texts.iter().filter(|(name, _)| name.starts_with(SHARED));
            let places = self.texts.get_key_value(name).into_iter().chain(shared);
            let found = places.filter_map(|(name, text)| Some((file_of(self.folder, name), line_of(text, word)?))).next();
            found.map_or_else(|| (file_of(self.folder, name), None), |(file, line)| (file, Some(line)))
        };
        if let Some((cause, next)) = message.split_once(REMEDY) {
            return Error::new(cause).at(file_of(self.folder, name), None).next(next);
        }
        let Some(missing) = message.strip_prefix("Variable `").and_then(|rest| rest.split('`').next()) else {
            let (file, line) = quoted(&message).map_or_else(|| (file_of(self.folder, name), None), place);
            return Error::new(message).at(file, line).next(LANGUAGE);
        };
        let hint = if missing.split('.').next() == Some("node") && !context.contains_key("node") {
            "give the file scope = \"node\" in overlay.toml; only then a template sees `node`".to_string()
        } else {
            format!("use one of: {}", known_names(missing, context).join(", "))
        };
        let (file, line) = place(missing);
        Error::new(format!("there is no `{missing}`")).at(file, line).next(hint)
    }

    /// Whether a condition holds: a tera expression such as `option.tls and role == "controller"`.
    ///
    /// # Errors
    /// It is no expression, or names what is not there; the caller adds the place.
    pub fn holds(condition: Option<&str>, context: &Map<String, Value>) -> Result<bool> {
        let Some(condition) = condition else { return Ok(true) };
        let text = format!("{{% if {condition} %}}1{{% endif %}}");
        if let Some((_, missing)) = names::missing(&text, context) {
            return Err(Error::new(format!("there is no `{missing}`"))
                .next(format!("use one of: {}", known_names(&missing, context).join(", "))));
        }
        let texts = BTreeMap::from([("condition".to_string(), text)]);
        let templates = Templates::parse(&texts, Path::new("")).map_err(|_| {
            Error::new(format!("`{condition}` is no condition")).next("write one such as: option.tls and not storages")
        })?;
        Ok(templates.render("condition", context)? == "1")
    }

    /// Refuses names of the context that are not there where tera would take them for false: in `{% if … %}`.
    ///
    /// # Errors
    /// With the template's line and the names that are there.
    pub fn check(&self, context: &Map<String, Value>) -> Result<()> {
        for (name, text) in self.texts {
            if let Some((line, missing)) = names::missing(text, context)
                // An overlay that includes a shared template gives it its parameters; others need not.
                && !(name.starts_with(SHARED) && missing.starts_with("param."))
            {
                return Err(Error::new(format!("there is no `{missing}`"))
                    .at(file_of(self.folder, name), line)
                    .next(format!("use one of: {}", known_names(&missing, context).join(", "))));
            }
        }
        Ok(())
    }

    /// Renders a short text that is no file, such as a link's target.
    ///
    /// # Errors
    /// As [`Self::render`]; the caller adds the place.
    pub fn render_text(text: &str, context: &Map<String, Value>) -> Result<String> {
        if !text.contains("{{") && !text.contains("{%") {
            return Ok(text.to_string());
        }
        let texts = BTreeMap::from([("text".to_string(), text.to_string())]);
        let rendered = Templates::parse(&texts, Path::new("")).and_then(|templates| templates.render("text", context));
        // Its place in a file that is none would keep the caller from adding the true one.
        rendered.map_err(|error| match error.remedy() {
            Some(remedy) => Error::new(error.cause()).next(remedy),
            None => Error::new(error.cause()),
        })
    }
}

/// `secret(name="…", field="…")`: the placeholder. Whether there is such a secret is checked on the finished file.
fn secret(arguments: &HashMap<String, tera::Value>) -> tera::Result<tera::Value> {
    let text = |name: &str| arguments.get(name).and_then(tera::Value::as_str);
    let name = text("name").ok_or_else(|| tera::Error::msg("`secret` wants a name: secret(name=\"…\")"))?;
    Ok(super::secrets::placeholder(name, text("field").unwrap_or("value")).into())
}

/// What separates cause and remedy in the message of a template's own `throw(message="cause; next: remedy")`.
const REMEDY: &str = "; next: ";

/// Templates that every overlay has lie in `recipes/templates/` and are included as `shared/NAME`.
const SHARED: &str = "shared/";

/// The file of a template, for messages. `folder` is `overlays/NAME/templates`.
fn file_of(folder: &Path, name: &str) -> PathBuf {
    match (name.strip_prefix(SHARED), folder.ancestors().nth(3)) {
        (Some(shared), Some(root)) => root.join("recipes/templates").join(shared),
        _ => folder.join(name),
    }
}

/// The innermost message of tera's chain: the outer ones only repeat the template's name.
fn innermost(error: &tera::Error) -> String {
    let mut message = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        message = inner.to_string();
        source = inner.source();
    }
    message
}

fn syntax(error: &tera::Error, file: &Path) -> Error {
    let message = innermost(error);
    // pest's report: " --> 3:12" and, in its last line, "= expected …".
    let line = message
        .split_once("--> ")
        .and_then(|(_, rest)| rest.split(':').next())
        .and_then(|line| line.trim().parse::<usize>().ok());
    let cause = message.lines().last().unwrap_or_default().trim().trim_start_matches("= ").to_string();
    Error::new(format!("this is no valid template: {cause}")).at(file, line).next(LANGUAGE)
}

/// The names beside the one that is missing: those of the deepest table that exists.
fn known_names(name: &str, context: &Map<String, Value>) -> Vec<String> {
    let mut table = context;
    let mut prefix = String::new();
    for part in name.split('.') {
        match table.get(part) {
            Some(Value::Object(inner)) => {
                table = inner;
                prefix = format!("{prefix}{part}.");
            }
            _ => break,
        }
    }
    table.keys().map(|key| format!("{prefix}{key}")).collect()
}

/// Tera keeps no lines for what it renders: the first line that has the name inside a tag is meant.
fn line_of(text: &str, name: &str) -> Option<usize> {
    let in_tag = |line: &str| line.contains(name) && (line.contains("{{") || line.contains("{%"));
    text.lines().position(in_tag).or_else(|| text.lines().position(|line| line.contains(name))).map(|index| index + 1)
}

fn quoted(message: &str) -> Option<&str> {
    message.split(['`', '\'']).nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn render(text: &str) -> Result<String> {
        let texts = BTreeMap::from([("t.tera".to_string(), text.to_string())]);
        let context = json!({ "site": { "name": "guide", "region": "RegionOne" }, "role": "controller" });
        Templates::parse(&texts, Path::new("overlays/x/templates"))?.render("t.tera", context.as_object().unwrap())
    }

    #[test]
    fn nothing_is_escaped() {
        assert_eq!(render("<{{ site.name }}> & \"{{ role }}\"").unwrap(), "<guide> & \"controller\"");
    }

    #[test]
    fn an_unknown_name_is_an_error_with_line_and_known_names() {
        assert_eq!(
            render("a\n{{ site.nme }}\n").unwrap_err().to_string(),
            "overlays/x/templates/t.tera:2: there is no `site.nme`\n  next: use one of: site.name, site.region"
        );
    }

    #[test]
    fn a_role_file_that_asks_for_the_node_is_told_about_scope() {
        assert_eq!(
            render("{{ node.name }}").unwrap_err().to_string(),
            "overlays/x/templates/t.tera:1: there is no `node.name`\n  next: give the file scope = \"node\" in overlay.toml; \
             only then a template sees `node`"
        );
    }

    #[test]
    fn a_syntax_error_names_its_line() {
        let error = render("a\nb\n{% if %}\n").unwrap_err().to_string();
        assert!(error.starts_with("overlays/x/templates/t.tera:3: this is no valid template: expected"), "{error}");
    }

    #[test]
    fn a_template_can_refuse_a_site_and_say_what_to_write() {
        assert_eq!(
            render("{{ throw(message=\"there is no \" ~ role ~ \"; next: add one\") }}").unwrap_err().to_string(),
            "overlays/x/templates/t.tera: there is no controller\n  next: add one"
        );
    }

    #[test]
    fn a_template_cannot_read_the_environment() {
        let error = render("{{ get_env(name=\"HOME\") }}").unwrap_err().to_string();
        assert!(error.contains("cannot read the environment"), "{error}");
    }
}
