//! LEB128 varints and zigzag, as Protocol Buffers define them: the integer coding of the block columns.

/// Appends `value`, seven bits a byte, low bits first.
pub fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Appends a signed value by zigzag, so that small magnitudes of either sign stay short.
pub fn put_signed(out: &mut Vec<u8>, value: i64) {
    put(out, ((value << 1) ^ (value >> 63)) as u64);
}

/// Takes one varint off the front; `None` when the input ends early or the value has more than 64 bits.
pub fn take(input: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = input.split_first()?;
        *input = rest;
        if shift == 63 && byte > 1 {
            return None;
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

pub fn take_signed(input: &mut &[u8]) -> Option<i64> {
    take(input).map(|raw| ((raw >> 1) as i64) ^ -((raw & 1) as i64))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_goes_in_comes_out(unsigned: u64, signed: i64) {
            let mut bytes = Vec::new();
            super::put(&mut bytes, unsigned);
            super::put_signed(&mut bytes, signed);
            let mut input = &bytes[..];
            prop_assert_eq!(super::take(&mut input), Some(unsigned));
            prop_assert_eq!(super::take_signed(&mut input), Some(signed));
            prop_assert!(input.is_empty());
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let mut input = &bytes[..];
            while super::take(&mut input).is_some() {}
        }
    }
}
