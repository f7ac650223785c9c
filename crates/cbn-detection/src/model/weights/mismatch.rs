use std::collections::BTreeMap;

/// How a set of tensors differs from what a module holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateMismatch {
    /// Names that only the module has.
    pub missing: Vec<String>,
    /// Names that the module does not have.
    pub unexpected: Vec<String>,
    /// Name, the module's shape, the shape found.
    pub shapes: Vec<(String, Vec<usize>, Vec<usize>)>,
}

impl StateMismatch {
    pub(crate) fn between(module: &BTreeMap<&str, Vec<usize>>, found: &BTreeMap<&str, Vec<usize>>) -> Self {
        let absent_from = |other: &BTreeMap<&str, Vec<usize>>, name: &&&str| !other.contains_key(**name);
        Self {
            missing: module.keys().filter(|name| absent_from(found, name)).map(ToString::to_string).collect(),
            unexpected: found.keys().filter(|name| absent_from(module, name)).map(ToString::to_string).collect(),
            shapes: module
                .iter()
                .filter_map(|(name, shape)| {
                    let other = found.get(name)?;
                    (other != shape).then(|| ((*name).to_owned(), shape.clone(), other.clone()))
                })
                .collect(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.shapes.is_empty()
    }
}

impl std::fmt::Display for StateMismatch {
    /// Each kind of difference with its number and its first three names; with all names as `{:#}`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shapes: Vec<String> = self
            .shapes
            .iter()
            .map(|(name, expected, found)| format!("{name} {found:?} instead of {expected:?}"))
            .collect();
        let kinds = [("missing", &self.missing), ("not in the model", &self.unexpected), ("of another shape", &shapes)];
        let mut separator = "";
        for (kind, names) in kinds.into_iter().filter(|(_, names)| !names.is_empty()) {
            let shown = if f.alternate() { names.len() } else { names.len().min(3) };
            let first = &names[..shown];
            let ellipsis = if names.len() > first.len() { ", ..." } else { "" };
            write!(f, "{separator}{} {kind} ({}{ellipsis})", names.len(), first.join(", "))?;
            separator = "; ";
        }
        Ok(())
    }
}
