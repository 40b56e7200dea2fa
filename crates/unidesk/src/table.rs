//! Tables without borders: an upper-case header for people, tabs and nothing else for programs.

use crate::{
    style::{Style, Tone},
    text::{clean, cut},
};

pub struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

#[derive(Clone, Debug, Default)]
pub struct Cell {
    text: String,
    tone: Option<Tone>,
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self { text: clean(&text.into()), tone: None }
    }
}

impl Cell {
    pub fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self { tone: Some(tone), ..text.into().into() }
    }
}

impl Table {
    pub fn new<const N: usize>(header: [&'static str; N]) -> Self {
        Self { header: header.into(), rows: Vec::new() }
    }
    pub fn row<const N: usize>(&mut self, cells: [Cell; N]) {
        self.rows.push(cells.into());
    }
    /// One more column on the right: a cell for every row.
    pub fn append(&mut self, name: &'static str, cells: impl IntoIterator<Item = Cell>) {
        self.header.push(name);
        for (row, cell) in self.rows.iter_mut().zip(cells) {
            row.push(cell);
        }
    }
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// For people, within `width`: the last column gives way first, so ids and names stay whole.
    pub fn for_people(&self, style: &Style, width: usize) -> String {
        let columns = self.header.len();
        let mut widths: Vec<usize> = self.header.iter().map(|name| name.chars().count()).collect();
        for row in &self.rows {
            for (i, cell) in row.iter().enumerate() {
                widths[i] = widths[i].max(cell.text.chars().count());
            }
        }
        let before_last: usize = widths[..columns - 1].iter().map(|width| width + 2).sum();
        let room = width.saturating_sub(before_last).max(8);
        let header: Vec<Cell> = self.header.iter().map(|name| Cell::from(*name)).collect();
        let mut text = String::new();
        for row in std::iter::once(&header).chain(&self.rows) {
            let mut line = String::new();
            for (i, cell) in row.iter().enumerate() {
                let shown = if i + 1 == columns { cut(&cell.text, room) } else { cell.text.clone() };
                let padding = " ".repeat((widths[i] + 2).saturating_sub(shown.chars().count()));
                line += &cell.tone.map_or_else(|| shown.clone(), |tone| style.paint(tone, &shown));
                if i + 1 < columns {
                    line += &padding;
                }
            }
            text += line.trim_end();
            text.push('\n');
        }
        text
    }

    /// For programs: one line a row, tabs, no header, nothing cut.
    pub fn for_programs(&self) -> String {
        let line = |row: &Vec<Cell>| row.iter().map(|cell| cell.text.as_str()).collect::<Vec<_>>().join("\t") + "\n";
        self.rows.iter().map(line).collect()
    }
}
