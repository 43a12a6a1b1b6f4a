//! How the rows look: a table that is drawn over itself, or JSON lines. Pure.

use std::collections::HashMap;
use std::fmt::Write as _;

use crate::source::bluetooth::Sight;

/// Column heads and widths, and which goes first on a terminal that is too narrow for all; 0: none of them.
const COLUMNS: [(&str, usize, u8); 10] = [
    ("NAME", 22, 0),
    ("ID", 17, 0),
    // Where it is what a wearable goes by, ID says it as well.
    ("ADDRESS", 17, 5),
    ("RSSI", 4, 1),
    ("BPM", 3, 0),
    ("RR ms", 7, 2),
    ("BATT", 4, 3),
    ("HEARD BY", 9, 0),
    ("ALLOWED", 7, 0),
    ("SEEN", 5, 4),
];

/// What stands on the terminal.
#[derive(Debug, Default)]
pub(super) struct Screen {
    drawn: usize,
}

impl Screen {
    /// The table over the one before; `size` is the terminal's, lines and columns.
    pub fn draw(&mut self, rows: &[Sight], (height, width): (u16, u16)) -> String {
        let (height, width) = (usize::from(height).max(4), usize::from(width).max(20));
        let mut lines = vec![line(COLUMNS.map(|(head, ..)| head.to_owned()), width)];
        let room = height - 3;
        lines.extend(rows.iter().take(room).map(|row| line(cells(row), width)));
        let more = rows.len().saturating_sub(room);
        lines.push(match (rows.len(), more) {
            (0, _) => "nobody yet; is a strap worn, and in reach?".to_owned(),
            (count, 0) => format!("{count} in reach; Ctrl-C ends"),
            (count, more) => format!("{count} in reach, {more} not shown; Ctrl-C ends"),
        });
        let mut text = String::new();
        if self.drawn > 0 {
            // Up to where the table began; what is left over below is cleared.
            let _ = write!(text, "\x1b[{}A\r", self.drawn);
        }
        for line in &lines {
            let _ = writeln!(text, "\x1b[2K{line}");
        }
        text.push_str("\x1b[J");
        self.drawn = lines.len();
        text
    }
}

/// What was printed of each wearable.
#[derive(Debug, Default)]
pub(super) struct Lines {
    told: HashMap<String, Sight>,
}

impl Lines {
    /// A line for each row that is not as it was.
    pub fn changed(&mut self, rows: &[Sight]) -> String {
        let mut text = String::new();
        for row in rows {
            let timeless = Sight { age_s: 0, ..row.clone() };
            if self.told.get(&row.address) == Some(&timeless) {
                continue;
            }
            if let Ok(line) = serde_json::to_string(row) {
                text.push_str(&line);
                text.push('\n');
            }
            self.told.insert(row.address.clone(), timeless);
        }
        self.told.retain(|address, _| rows.iter().any(|row| row.address == *address));
        text
    }
}

fn cells(row: &Sight) -> [String; COLUMNS.len()] {
    fn or_dash(value: Option<impl ToString>) -> String {
        value.map_or_else(|| "-".to_owned(), |value| value.to_string())
    }
    let way = match (row.connected, row.broadcast, row.gatt) {
        (true, _, _) => "connected",
        (false, true, true) => "both",
        (false, true, false) => "broadcast",
        (false, false, true) => "GATT",
        (false, false, false) => "-",
    };
    [
        or_dash(row.device.as_ref().or(row.name.as_ref())),
        row.polar_id
            .clone()
            .unwrap_or_else(|| if row.address_changes { "by name".into() } else { row.address.clone() }),
        row.address.clone(),
        or_dash(row.rssi_dbm),
        or_dash(row.bpm),
        row.rr_ms.map_or_else(|| "-".to_owned(), |rr| format!("{rr:.0}")),
        row.battery_percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent}%")),
        way.to_owned(),
        if row.allowed { "yes" } else { "no" }.to_owned(),
        format!("{} s", row.age_s),
    ]
}

/// The highest rank of a column that is shown on `width` characters.
fn most_shown(width: usize) -> u8 {
    let taken = |most: u8| -> usize {
        COLUMNS.iter().filter(|(.., rank)| *rank <= most).map(|(_, column, _)| column + 1).sum()
    };
    // The last column has no space after it.
    (1..=COLUMNS.len() as u8).rev().find(|most| taken(*most) <= width + 1).unwrap_or(0)
}

/// One line of at most `width` characters. What wearables say of themselves never controls the terminal.
fn line(cells: [String; COLUMNS.len()], width: usize) -> String {
    let mut text = String::new();
    let most = most_shown(width);
    for (cell, (_, column, _)) in cells.iter().zip(COLUMNS).filter(|(_, (.., rank))| *rank <= most) {
        let shown: String = cell.chars().map(|c| if c.is_control() { '?' } else { c }).take(column).collect();
        let _ = write!(text, "{shown:<column$} ");
    }
    text.chars().take(width).collect::<String>().trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, bpm: Option<u16>) -> Sight {
        Sight {
            device: None,
            name: Some(name.to_owned()),
            polar_id: None,
            address: format!("C4:AC:05:11:22:{:02X}", name.len()),
            address_changes: false,
            adapter: "hci0".to_owned(),
            rssi_dbm: Some(-61),
            bpm,
            rr_ms: None,
            battery_percent: Some(90),
            broadcast: true,
            gatt: false,
            connected: false,
            allowed: false,
            age_s: 1,
        }
    }

    #[test]
    fn the_table_is_drawn_over_itself() {
        let mut screen = Screen::default();
        let first = screen.draw(&[row("TICKR", Some(72)), row("HRM 4", None)], (24, 120));
        assert!(!first.contains("\x1b[4A"), "nothing stands there yet");
        assert!(first.contains("TICKR") && first.contains(" 72 ") && first.contains("2 in reach"), "{first}");
        let second = screen.draw(&[row("TICKR", Some(73))], (24, 120));
        assert!(second.starts_with("\x1b[4A\r"), "up by what was drawn: {second:?}");
        assert!(second.ends_with("\x1b[J"), "what is left over goes");
        let small = screen.draw(&vec![row("TICKR", None); 50], (10, 40));
        assert!(small.contains("50 in reach, 43 not shown"), "{small}");
        assert!(
            small.lines().all(|line| line.trim_start_matches("\x1b[2K").chars().count() <= 46),
            "{small}"
        );
    }

    #[test]
    fn a_narrow_terminal_still_says_who_is_allowed() {
        let head = |width| Screen::default().draw(&[], (24, width)).lines().next().unwrap().to_owned();
        for column in COLUMNS {
            assert!(head(120).contains(column.0), "{}", column.0);
        }
        assert!(head(80).contains("RR ms") && head(80).ends_with("ALLOWED"), "{}", head(80));
        assert!(!head(80).contains("ADDRESS"));
        assert!(head(66).contains("BPM") && head(66).ends_with("ALLOWED"), "{}", head(66));
        assert!(head(30).chars().count() <= 30 + "\x1b[2K".len());
    }

    #[test]
    fn a_name_cannot_control_the_terminal() {
        let text = Screen::default().draw(&[row("\x1b[2J\u{7}evil", None)], (24, 120));
        assert!(text.contains("?[2J?evil"), "{text:?}");
    }

    #[test]
    fn in_a_pipe_only_what_changed_is_told() {
        let mut lines = Lines::default();
        assert_eq!(lines.changed(&[row("TICKR", Some(72))]).lines().count(), 1);
        assert_eq!(lines.changed(&[Sight { age_s: 3, ..row("TICKR", Some(72)) }]), "");
        let told = lines.changed(&[row("TICKR", Some(73))]);
        let value: serde_json::Value = serde_json::from_str(&told).unwrap();
        assert_eq!((value["bpm"].as_u64(), value["broadcast"].as_bool()), (Some(73), Some(true)));
    }
}
