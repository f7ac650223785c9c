//! What was found.

/// One line of the table.
pub struct Row {
    pub what: String,
    pub found: String,
    /// What it should be.
    pub bar: String,
    pub passed: bool,
}

impl Row {
    /// A difference that must stay below a bar.
    pub fn difference(what: String, (found, detail): (f64, &str), bar: f64) -> Self {
        let detail = if detail.is_empty() { String::new() } else { format!(" ({detail})") };
        Self { what, found: format!("{found:.1e}{detail}"), bar: format!("{bar:.0e}"), passed: found < bar }
    }

    pub fn fact(what: impl Into<String>, found: impl Into<String>, bar: &str, passed: bool) -> Self {
        Self { what: what.into(), found: found.into(), bar: bar.to_owned(), passed }
    }
}

pub fn print(rows: &[Row]) {
    println!("\n| what | found | should be | |\n|---|---|---|---|");
    for Row { what, found, bar, passed } in rows {
        println!("| {what} | {found} | {bar} | {} |", if *passed { "yes" } else { "**NO**" });
    }
}
