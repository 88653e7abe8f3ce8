//! Which line of a template wrote a line of a rendered file.
//!
//! The template is rendered once more with a mark in front of what each of its lines says. A mark may change what a template
//! does: one that compares or measures a piece of its own text, for example. So the answer counts only if the text without the
//! marks is the true one.

use super::{Templates, file_of};
use crate::plan::context::Values;
use std::borrow::Cow;
use std::path::PathBuf;

/// How a mark begins and ends: characters for private use, which no configuration file has.
const BEGIN: char = '\u{e000}';
const END: char = '\u{e001}';

impl Templates<'_> {
    /// The file and the line that wrote line `at` (from 1) of the rendered template; `None` where that cannot be said.
    pub fn origin(&self, name: &str, values: &Values, at: usize) -> Option<(PathBuf, usize)> {
        // A macro may write lines, or compute a value that no mark may be in.
        let text = [true, false].into_iter().find_map(|macros| self.marked(name, values, macros))?;
        let line = text.split('\n').nth(at - 1)?;
        // Marks of lines that said nothing come before that of the one that wrote the line's first character.
        let first = line.char_indices().scan(false, |inside, (index, c)| {
            *inside = (*inside || c == BEGIN) && c != END;
            Some((index, !*inside && c != END && !c.is_whitespace()))
        });
        let first = first.filter(|(_, written)| *written).map(|(index, _)| index).next().unwrap_or(line.len());
        let begin = line.as_ptr() as usize - text.as_ptr() as usize;
        let before = &text[..begin + first];
        let mark = &before[before.rfind(BEGIN)? + BEGIN.len_utf8()..];
        let (index, line) = mark.split(END).next()?.split_once(':')?;
        Some((file_of(self.folder, self.texts.keys().nth(index.parse().ok()?)?), line.parse().ok()?))
    }

    /// The template rendered with its marks, if they change nothing else.
    fn marked(&self, name: &str, values: &Values, macros: bool) -> Option<String> {
        let texts = self.texts.iter().enumerate();
        let marked = texts.map(|(index, (name, text))| (name.clone(), mark(text, index, macros))).collect();
        let marked = Templates::of(Cow::Owned(marked), self.folder).ok()?;
        let text = marked.tera.render(name, values.tera()).ok()?;
        (without_marks(&text) == self.render(name, values).ok()?).then_some(text)
    }
}

/// The template with a mark in each line, behind its indentation. No mark in tags that go over several lines, in macros where
/// they are not wanted, in front of comments, and where a tag cuts off the white space before it: it would cut off nothing then.
fn mark(text: &str, index: usize, macros: bool) -> String {
    let mut marked = String::new();
    let (mut in_tag, mut in_macro) = (false, false);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let trimmed = line.trim_start();
        let words = trimmed.trim_start_matches(['{', '%', '-', '#']).trim_start();
        in_macro |= trimmed.starts_with("{%") && words.starts_with("macro ");
        let cuts = ["{%-", "{{-", "{#"].iter().any(|tag| trimmed.starts_with(tag));
        let on_top = trimmed.starts_with("{%") && (words.starts_with("import ") || words.starts_with("extends "));
        if !trimmed.is_empty() && !in_tag && (macros || !in_macro) && !cuts && !on_top {
            marked.push_str(&line[..line.len() - trimmed.len()]);
            marked.push_str(&format!("{BEGIN}{index}:{}{END}", number + 1));
            marked.push_str(trimmed);
        } else {
            marked.push_str(line);
        }
        let opened = ["{{", "{%", "{#"].iter().filter_map(|tag| line.rfind(tag)).max();
        let closed = ["}}", "%}", "#}"].iter().filter_map(|tag| line.rfind(tag)).max();
        in_tag = match (opened, closed) {
            (Some(opened), Some(closed)) => opened > closed,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => in_tag,
        };
        in_macro &= !line.contains("endmacro");
    }
    marked
}

fn without_marks(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for (index, part) in text.split(BEGIN).enumerate() {
        plain.push_str(if index == 0 { part } else { part.split_once(END).map_or("", |(_, rest)| rest) });
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::BTreeMap;
    use std::path::Path;

    /// The lines of the rendered template, each with the place that wrote it.
    fn traced(main: &str) -> Vec<String> {
        let shared = "[shared]\nkey = {{ role }}\n";
        let numbers = "{% macro twice(of) %}{{ of * 2 }}{% endmacro twice %}";
        let texts = BTreeMap::from(
            [("main.tera", main), ("shared/part.tera", shared), ("shared/numbers.tera", numbers)]
                .map(|(name, text)| (name.to_string(), text.to_string())),
        );
        let serde_json::Value::Object(values) = json!({ "role": "compute", "list": ["a", "b"], "yes": true }) else { panic!() };
        let values = Values::new(values);
        let templates = Templates::parse(&texts, Path::new("overlays/x/templates")).unwrap();
        let text = templates.render("main.tera", &values).unwrap();
        let place = |at| match templates.origin("main.tera", &values, at) {
            Some((file, line)) => format!("{}:{line}", file.file_name().unwrap().to_string_lossy()),
            None => "?".to_string(),
        };
        text.lines().enumerate().map(|(index, line)| format!("{line} <- {}", place(index + 1))).collect()
    }

    #[test]
    fn a_rendered_line_is_traced_through_conditions_loops_and_included_templates() {
        let template = "first\n{% if yes -%}\n    second = {{ role }}\n{%- endif %}\n{% for one in list -%}\nitem {{ one }}\n\
                        {% endfor -%}\n{% include \"shared/part.tera\" %}last\n";
        assert_eq!(
            traced(template),
            [
                "first <- main.tera:1",
                "second = compute <- main.tera:3",
                "item a <- main.tera:6",
                "item b <- main.tera:6",
                "[shared] <- part.tera:1",
                "key = compute <- part.tera:2",
                "last <- part.tera:2",
            ]
        );
    }

    #[test]
    fn values_that_macros_compute_are_left_alone() {
        assert_eq!(
            traced(
                "{% import \"shared/numbers.tera\" as numbers %}\n{% set n = numbers::twice(of=2) | int %}\nworkers = {{ n + 1 }}\n"
            ),
            [" <- main.tera:2", "workers = 5 <- main.tera:3"]
        );
    }

    #[test]
    fn a_template_that_looks_at_its_own_text_has_no_lines() {
        assert_eq!(traced("{% set_global text = \"\" %}{% filter length %}\nabc\n{% endfilter %}\n"), ["5 <- ?"]);
    }
}
