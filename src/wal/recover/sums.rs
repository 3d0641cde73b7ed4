//! CRCs of any part of a file, each in about the same time.
//!
//! Whoever can choose bodies can fill them with headers that each want the CRC of the rest of the
//! file, and summing that up for each would take time with the square of its length. The CRC of
//! a part follows from those of the two beginnings of the file that it lies between, and of these
//! one in 4 KiB is kept.

use std::io;

use crc32c::crc32c_append;

use crate::os::fs::File;

use super::super::window::Window;

const STRIDE: u64 = 4 << 10;

/// The sums of a file from some place on.
pub(super) struct Sums<'a> {
    from: u64,
    /// Of `from..from + n * STRIDE`.
    beginnings: Vec<u32>,
    shifts: Shifts,
    at_begin: Window<'a>,
    at_end: Window<'a>,
}

/// The polynomial of CRC32C, and the others here, with the highest power in the lowest bit.
const POLYNOMIAL: u32 = 0x82f6_3b78;
const ONE: u32 = 1 << 31;
/// x^8: one byte.
const BYTE: u32 = ONE >> 8;

/// The remainders of x^(8 * 2^n), which shift by 2^n bytes.
struct Shifts([u32; usize::BITS as usize]);

impl Shifts {
    fn new() -> Self {
        let mut power = BYTE;
        Self(std::array::from_fn(|_| {
            let square = multiply(power, power);
            std::mem::replace(&mut power, square)
        }))
    }

    /// What shifts by `len` bytes.
    fn by(&self, len: usize) -> u32 {
        let bits = self.0.iter().enumerate();
        let bits = bits.filter(|(bit, _)| len >> bit & 1 == 1);
        bits.fold(ONE, |product, (_, power)| multiply(*power, product))
    }
}

/// The product of two polynomials, modulo that of the CRC.
fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    for power in 0..u32::BITS {
        if a & (ONE >> power) != 0 {
            product ^= b;
        }
        b = (b >> 1) ^ (POLYNOMIAL * (b & 1));
    }
    product
}

impl<'a> Sums<'a> {
    pub(super) fn new(file: &'a dyn File, from: u64) -> io::Result<Self> {
        let mut window = Window::new(file)?;
        let (mut at, mut sum) = (from, 0);
        let mut beginnings = vec![0];
        while at < window.end() {
            let part = window.get(at, STRIDE as usize)?;
            sum = crc32c_append(sum, part);
            beginnings.push(sum);
            at += STRIDE;
        }
        Ok(Self {
            from,
            beginnings,
            shifts: Shifts::new(),
            at_begin: window,
            at_end: Window::new(file)?,
        })
    }

    /// The CRC of `len` bytes at `at`, which lie in the file.
    pub(super) fn of(&mut self, at: u64, len: usize) -> io::Result<u32> {
        let (from, kept) = (self.from, &self.beginnings);
        let before = until(&mut self.at_begin, kept, from, at)?;
        let whole = until(&mut self.at_end, kept, from, at + len as u64)?;
        // A CRC is a remainder: `whole` is `before`, shifted by the part's length, plus the part's.
        Ok(whole ^ multiply(self.shifts.by(len), before))
    }
}

/// The CRC from `from` to `end`.
fn until(window: &mut Window<'_>, kept: &[u32], from: u64, end: u64) -> io::Result<u32> {
    let full = (end - from) / STRIDE;
    let begin = from + full * STRIDE;
    let sum = usize::try_from(full).ok().and_then(|full| kept.get(full));
    let sum = *sum.ok_or(io::ErrorKind::UnexpectedEof)?;
    Ok(crc32c_append(
        sum,
        window.get(begin, (end - begin) as usize)?,
    ))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use crc32c::crc32c;

    use super::*;
    use crate::os::fs::{Fs, MemoryFs, OpenMode, write_all};

    #[test]
    fn the_sum_of_a_part_is_that_of_its_bytes() {
        let fs = MemoryFs::new();
        let file = fs.open(Path::new("file"), OpenMode::Create).unwrap();
        let bytes: Vec<u8> = (0..20_000u32).map(|at| ((at * at) >> 3) as u8).collect();
        write_all(&*file, &bytes, 0).unwrap();
        let mut sums = Sums::new(&*file, 48).unwrap();
        for (at, len) in [
            (48, 0),
            (48, 1),
            (49, 19_951),
            (4144, 4096),
            (5000, 12_345),
            (20_000, 0),
        ] {
            let sum = sums.of(at as u64, len).unwrap();
            assert_eq!(sum, crc32c(&bytes[at..at + len]), "{at} {len}");
        }
    }
}
