//! Fields of fixed-size structures, and the UTF-16 strings that both formats keep paths in.

/// The `N` bytes at `at` of a structure that the caller knows to be long enough.
///
/// # Panics
/// If they are not there: parsers take arrays, or check lengths before they ask.
pub(crate) fn field<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N]
        .try_into()
        .expect("a slice of N bytes is an array of N bytes")
}

/// Replaces the bytes at `at` with `value`.
///
/// # Panics
/// If `bytes` ends before: writers know their structures.
pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// The byte order of a UTF-16 string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Utf16 {
    Little,
    Big,
}

impl Utf16 {
    /// The text, or nothing if it is no valid UTF-16 or holds a NUL.
    pub(crate) fn decode(self, bytes: &[u8]) -> Option<String> {
        let (units, rest) = bytes.as_chunks::<2>();
        let unit = match self {
            Utf16::Little => u16::from_le_bytes,
            Utf16::Big => u16::from_be_bytes,
        };
        let units: Vec<u16> = units.iter().copied().map(unit).collect();
        let text = String::from_utf16(&units).ok()?;
        (rest.is_empty() && !text.contains('\0')).then_some(text)
    }

    pub(crate) fn encode(self, text: &str) -> Vec<u8> {
        let bytes = |unit: u16| match self {
            Utf16::Little => unit.to_le_bytes(),
            Utf16::Big => unit.to_be_bytes(),
        };
        text.encode_utf16().flat_map(bytes).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_comes_back_in_both_byte_orders() {
        for order in [Utf16::Little, Utf16::Big] {
            let text = "..\\Größe 𝄞.vhdx";
            assert_eq!(order.decode(&order.encode(text)).as_deref(), Some(text));
        }
    }

    #[test]
    fn what_is_no_text_is_refused() {
        assert_eq!(Utf16::Little.decode(&[0x41]), None, "half a unit");
        assert_eq!(
            Utf16::Little.decode(&[0x00, 0xd8]),
            None,
            "half a surrogate pair"
        );
        assert_eq!(Utf16::Little.decode(&[0x41, 0, 0, 0]), None, "a NUL");
    }
}
