//! `path.to.key=value` on the command line.

use serde::Deserialize;
use toml::{Table, Value};

use super::{Recipe, RecipeError};

/// Applies assignments in their order to a recipe's tree.
///
/// Each one is checked against the schema before the next, so that an error names its cause.
///
/// # Errors
///
/// The first assignment that is none, whose path the schema does not have, or whose value has another type.
pub(super) fn apply(mut tree: Table, assignments: &[String]) -> Result<Recipe, RecipeError> {
    let mut recipe = None;
    for assignment in assignments {
        let fault = |message: String| RecipeError::Override { assignment: assignment.clone(), message };
        let (path, value) = split(assignment)?;
        set(&mut tree, &path, value).map_err(fault)?;
        recipe = Some(Recipe::deserialize(tree.clone()).map_err(|error| fault(error.message().to_owned()))?);
    }
    Ok(recipe.expect("Recipe::parse calls this with at least one assignment"))
}

fn split(assignment: &str) -> Result<(Vec<&str>, Value), RecipeError> {
    let fault = || RecipeError::OverrideSyntax { assignment: assignment.to_owned() };
    let (path, value) = assignment.split_once('=').ok_or_else(fault)?;
    let path: Vec<&str> = path.trim().split('.').collect();
    if path.iter().any(|key| key.is_empty()) {
        return Err(fault());
    }
    Ok((path, parse_value(value.trim())))
}

/// A TOML value, or else a string, so that shells need no second pair of quotes: `norm.neck=bn`.
fn parse_value(text: &str) -> Value {
    match toml::from_str::<Table>(&format!("value = {text}")) {
        Ok(mut table) if table.len() == 1 => table.remove("value").expect("the only key is this one"),
        _ => Value::String(text.to_owned()),
    }
}

fn set(tree: &mut Table, path: &[&str], value: Value) -> Result<(), String> {
    let (last, parents) = path.split_last().expect("splitting yields at least one key");
    let mut table = tree;
    for (depth, key) in parents.iter().enumerate() {
        let entry = table.entry((*key).to_owned()).or_insert_with(|| Value::Table(Table::new()));
        table = entry.as_table_mut().ok_or_else(|| format!("{} is a value, not a table", path[..=depth].join(".")))?;
    }
    table.insert((*last).to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_toml_or_else_strings() {
        assert_eq!(parse_value("3"), Value::Integer(3));
        assert_eq!(parse_value("0.5"), Value::Float(0.5));
        assert_eq!(parse_value("\"bn\""), Value::String("bn".into()));
        assert_eq!(parse_value("bn"), Value::String("bn".into()));
        assert_eq!(parse_value("[1, 2]"), Value::Array(vec![Value::Integer(1), Value::Integer(2)]));
        assert!(parse_value("{ epochs = 2 }").is_table());
    }

    #[test]
    fn a_path_through_a_value_is_refused() {
        let mut tree: Table = toml::from_str("[norm]\nneck = \"bn\"").unwrap();
        let message = set(&mut tree, &["norm", "neck", "window"], Value::Integer(2)).unwrap_err();
        assert_eq!(message, "norm.neck is a value, not a table");
    }

    #[test]
    fn an_assignment_needs_a_path_and_a_value() {
        for text in ["train.seed", "=3", "train..seed=3"] {
            assert!(matches!(split(text), Err(RecipeError::OverrideSyntax { .. })), "{text}");
        }
    }
}
