//! Command lines of `--name value` pairs.

use std::path::PathBuf;

/// What stands behind a name.
pub struct Given<'a> {
    pub name: &'a str,
    pub value: &'a str,
    usage: &'a str,
}

impl Given<'_> {
    pub fn text(&self) -> String {
        self.value.to_owned()
    }

    pub fn path(&self) -> PathBuf {
        self.value.into()
    }

    pub fn number(&self) -> Result<usize, String> {
        self.value.parse().map_err(|_| format!("{} {}: not a number\n{}", self.name, self.value, self.usage))
    }
}

/// Gives `take` one pair after the other; it says whether it knows the name.
pub fn for_each(
    arguments: &[String],
    usage: &str,
    mut take: impl FnMut(&Given<'_>) -> Result<bool, String>,
) -> Result<(), String> {
    for pair in arguments.chunks(2) {
        let [name, value] = pair else { return Err(usage.to_owned()) };
        if !take(&Given { name, value, usage })? {
            return Err(usage.to_owned());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_taken_in_turn_and_anything_else_is_answered_with_the_usage() {
        let parse = |text: &str| {
            let arguments: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
            let (mut kills, mut dir) = (1, PathBuf::new());
            for_each(&arguments, "usage", |given| {
                match given.name {
                    "--kills" => kills = given.number()?,
                    "--dir" => dir = given.path(),
                    _ => return Ok(false),
                }
                Ok(true)
            })
            .map(|()| (kills, dir))
        };
        assert_eq!(parse(""), Ok((1, PathBuf::new())));
        assert_eq!(parse("--kills 2 --dir a --kills 3"), Ok((3, "a".into())));
        assert_eq!(parse("--kills many"), Err("--kills many: not a number\nusage".to_owned()));
        assert_eq!(parse("--kills"), Err("usage".to_owned()));
        assert_eq!(parse("--other 1"), Err("usage".to_owned()));
    }
}
