//! One column of a block: varints one after the other, behind its length.

use super::super::varint::{put, take, take_signed};

/// Puts a column into a body. One of zeros says nothing: its length alone, 0, brings it back.
pub(super) fn end_column(column: &mut Vec<u8>, out: &mut Vec<u8>) {
    if column.iter().all(|&byte| byte == 0) {
        column.clear();
    }
    put(out, column.len() as u64);
    out.extend_from_slice(column);
}

/// A column while it is read; an empty one is all zeros.
pub(super) struct Column<'a> {
    bytes: &'a [u8],
    zeros: bool,
}

impl<'a> Column<'a> {
    /// Takes the next column off a body.
    pub(super) fn take(body: &mut &'a [u8]) -> Option<Self> {
        let len = usize::try_from(take(body)?).ok()?;
        let (bytes, rest) = body.split_at_checked(len)?;
        *body = rest;
        Some(Self { bytes, zeros: len == 0 })
    }

    pub(super) fn unsigned(&mut self) -> Option<u64> {
        if self.zeros { Some(0) } else { take(&mut self.bytes) }
    }

    pub(super) fn signed(&mut self) -> Option<i64> {
        if self.zeros { Some(0) } else { take_signed(&mut self.bytes) }
    }
}
