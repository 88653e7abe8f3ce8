//! Templates to text: tera, pure and strict.
//!
//! No clock, no random numbers, no environment; nothing is escaped. A name that is not there is an error with the
//! template's line and the names that are.

mod trace;

use super::context::Values;
use super::names;
use crate::base::error::{Error, Result};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::error::Error as _;
use std::path::{Path, PathBuf};

const LANGUAGE: &str = "correct it; what templates can say is in https://keats.github.io/tera/docs";

/// The templates of one overlay, parsed; of the shared ones those that it uses, because each overlay has all of them.
pub struct Templates<'a> {
    tera: tera::Tera,
    texts: Cow<'a, BTreeMap<String, String>>,
    used: BTreeSet<String>,
    folder: &'a Path,
}

/// A condition, parsed: a tera expression such as `option.tls and role == "controller"`.
pub struct Condition {
    text: String,
    templates: Templates<'static>,
}

/// What a template is called that is no file; nobody sees it.
const TEXT: &str = "text";

impl Condition {
    /// Parses a condition.
    ///
    /// # Errors
    /// It is no expression; the caller adds the place.
    pub fn parse(condition: &str) -> Result<Self> {
        let text = format!("{{% if {condition} %}}1{{% endif %}}");
        let templates = Templates::one(text.clone()).map_err(|_| {
            Error::new(format!("`{condition}` is no condition")).next("write one such as: option.tls and not storages")
        })?;
        Ok(Self { text, templates })
    }

    /// Whether it holds.
    ///
    /// # Errors
    /// It names what is not there; the caller adds the place.
    pub fn holds(&self, values: &Values) -> Result<bool> {
        if let Some((_, missing)) = names::missing(&self.text, values) {
            return Err(Error::new(format!("there is no `{missing}`"))
                .next(format!("use one of: {}", known_names(&missing, values).join(", "))));
        }
        Ok(self.templates.render(TEXT, values).map_err(without_place)? == "1")
    }
}

/// A text that is no file, parsed once to be rendered for many nodes.
pub struct Text(Templates<'static>);

impl Text {
    /// Parses a text.
    ///
    /// # Errors
    /// Its syntax; the caller adds the place.
    pub fn parse(text: impl Into<String>) -> Result<Self> {
        Templates::one(text.into()).map(Self).map_err(without_place)
    }

    /// Renders it.
    ///
    /// # Errors
    /// It names what is not there; the caller adds the place.
    pub fn render(&self, values: &Values) -> Result<String> {
        self.0.render(TEXT, values).map_err(without_place)
    }
}

impl<'a> Templates<'a> {
    /// Parses every template of an overlay. `folder` is where they came from, for messages.
    ///
    /// # Errors
    /// A template's syntax, with its line.
    pub fn parse(texts: &'a BTreeMap<String, String>, folder: &'a Path) -> Result<Self> {
        Self::of(Cow::Borrowed(texts), folder)
    }

    /// A template that is no file.
    fn one(text: String) -> Result<Templates<'static>> {
        Templates::of(Cow::Owned(BTreeMap::from([(TEXT.to_string(), text)])), Path::new(""))
    }

    fn of(texts: Cow<'a, BTreeMap<String, String>>, folder: &'a Path) -> Result<Self> {
        let mut tera = tera::Tera::default();
        tera.autoescape_on(Vec::new());
        // The only built-in function that reads the build machine.
        tera.register_function("get_env", |_: &HashMap<String, tera::Value>| -> tera::Result<tera::Value> {
            Err(tera::Error::msg("a template cannot read the environment"))
        });
        tera.register_function("secret", secret);
        let used = used(&texts);
        // All at once: one may use another whatever their names are.
        tera.add_raw_templates(texts.iter().filter(|(name, _)| used.contains(*name))).map_err(|error| {
            let name = quoted(&error.to_string()).unwrap_or_default().to_string();
            syntax(&error, &file_of(folder, &name))
        })?;
        Ok(Self { tera, texts, used, folder })
    }

    /// Renders one template.
    ///
    /// # Errors
    /// An unknown name, or a value that a filter or test refuses; with the template's line.
    pub fn render(&self, name: &str, values: &Values) -> Result<String> {
        let file = file_of(self.folder, name);
        if !self.texts.contains_key(name) {
            let known: Vec<&str> = self.texts.keys().map(String::as_str).collect();
            return Err(
                Error::new(format!("there is no template {}", file.display())).next(format!("use one of: {}", known.join(", ")))
            );
        }
        if !self.used.contains(name) {
            // A shared one that is a file by itself.
            let text = format!("{{% include \"{name}\" %}}");
            let texts = self.texts.iter().map(|(name, text)| (name.clone(), text.clone()));
            let texts = texts.chain([(TEXT.to_string(), text)]).collect();
            return Templates::of(Cow::Owned(texts), self.folder)?.render(TEXT, values);
        }
        self.tera.render(name, values.tera()).map_err(|error| self.explain(&error, name, values))
    }

    fn explain(&self, error: &tera::Error, name: &str, values: &Values) -> Error {
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
        let hint = if missing.split('.').next() == Some("node") && values.get("node").is_none() {
            "give the file scope = \"node\" in overlay.toml; only then a template sees `node`".to_string()
        } else {
            format!("use one of: {}", known_names(missing, values).join(", "))
        };
        let (file, line) = place(missing);
        Error::new(format!("there is no `{missing}`")).at(file, line).next(hint)
    }

    /// Whether a condition holds that is asked once; none always does.
    ///
    /// # Errors
    /// As [`Condition`]'s.
    pub fn holds(condition: Option<&str>, values: &Values) -> Result<bool> {
        condition.map_or(Ok(true), |condition| Condition::parse(condition)?.holds(values))
    }

    /// Refuses names of the context that are not there where tera would take them for false: in `{% if … %}`.
    ///
    /// # Errors
    /// With the template's line and the names that are there.
    pub fn check(&self, values: &Values) -> Result<()> {
        for (name, text) in self.texts.iter().filter(|(name, _)| self.used.contains(*name)) {
            if let Some((line, missing)) = names::missing(text, values)
                // An overlay that includes a shared template gives it its parameters; others need not.
                && !(name.starts_with(SHARED) && missing.starts_with("param."))
            {
                return Err(Error::new(format!("there is no `{missing}`"))
                    .at(file_of(self.folder, name), line)
                    .next(format!("use one of: {}", known_names(&missing, values).join(", "))));
            }
        }
        Ok(())
    }

    /// Renders a short text that is no file, such as a link's target.
    ///
    /// # Errors
    /// As [`Self::render`]; the caller adds the place.
    pub fn render_text(text: &str, values: &Values) -> Result<String> {
        if !text.contains("{{") && !text.contains("{%") {
            return Ok(text.to_string());
        }
        Templates::one(text.to_string()).and_then(|templates| templates.render(TEXT, values)).map_err(without_place)
    }
}

/// Its place in a file that is none would keep the caller from adding the true one.
fn without_place(error: Error) -> Error {
    match error.remedy() {
        Some(remedy) => Error::new(error.cause()).next(remedy),
        None => Error::new(error.cause()),
    }
}

/// `secret(name="…", field="…")`: the placeholder. Whether there is such a secret is checked on the finished file.
fn secret(arguments: &HashMap<String, tera::Value>) -> tera::Result<tera::Value> {
    let text = |name: &str| arguments.get(name).and_then(tera::Value::as_str);
    let name = text("name").ok_or_else(|| tera::Error::msg("`secret` wants a name: secret(name=\"…\")"))?;
    Ok(crate::model::placeholder::placeholder(name, text("field").unwrap_or("value")).into())
}

/// What separates cause and remedy in the message of a template's own `throw(message="cause; next: remedy")`.
const REMEDY: &str = "; next: ";

/// The names of templates without the shared ones that no other names.
fn used(texts: &BTreeMap<String, String>) -> BTreeSet<String> {
    let (mut unused, mut used): (Vec<&String>, Vec<&String>) = texts.keys().partition(|name| name.starts_with(SHARED));
    let mut at = 0;
    while let Some(text) = used.get(at).map(|name| &texts[*name]) {
        let (found, rest) = unused.into_iter().partition(|name| text.contains(name.as_str()));
        unused = rest;
        used.extend::<Vec<_>>(found);
        at += 1;
    }
    used.into_iter().cloned().collect()
}

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
fn known_names(name: &str, values: &Values) -> Vec<String> {
    let mut parts = name.split('.');
    let first = parts.next().unwrap_or_default();
    let Some(mut table) = values.get(first).and_then(Value::as_object) else {
        return values.names().map(str::to_string).collect();
    };
    let mut prefix = format!("{first}.");
    for part in parts {
        let Some(inner) = table.get(part).and_then(Value::as_object) else { break };
        table = inner;
        prefix = format!("{prefix}{part}.");
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
        Templates::parse(&texts, Path::new("overlays/x/templates"))?
            .render("t.tera", &Values::new(context.as_object().unwrap().clone()))
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
    fn a_template_may_use_one_whose_name_sorts_after_its_own() {
        let use_it = "{% import \"z.tera\" as z %}{{ z::word() }}".to_string();
        let texts = BTreeMap::from([
            ("a.tera".to_string(), use_it),
            ("z.tera".to_string(), "{% macro word() %}said once{% endmacro word %}".to_string()),
        ]);
        assert_eq!(
            Templates::parse(&texts, Path::new("")).unwrap().render("a.tera", &Values::new(serde_json::Map::new())).unwrap(),
            "said once"
        );
    }

    #[test]
    fn a_shared_template_is_read_where_another_names_it_or_a_file_is_made_of_it() {
        let texts = BTreeMap::from(
            [
                ("a.tera", "{% include \"shared/one\" %}"),
                ("shared/one", "1{% include \"shared/two\" %}"),
                ("shared/two", "2"),
                ("shared/other", "other"),
                ("shared/wrong", "{% if %}"),
            ]
            .map(|(name, text)| (name.to_string(), text.to_string())),
        );
        let with = |texts: &BTreeMap<String, String>, name: &str| {
            Templates::parse(texts, Path::new("overlays/x/templates"))
                .and_then(|templates| templates.render(name, &Values::new(serde_json::Map::new())))
                .map_err(|error| error.to_string())
        };
        assert_eq!(with(&texts, "a.tera").unwrap(), "12");
        assert_eq!(with(&texts, "shared/other").unwrap(), "other");
        assert!(with(&texts, "shared/wrong").unwrap_err().starts_with("recipes/templates/wrong:1: "));
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
