//! The framing of a response body: by length, in chunks, or until the connection closes.

/// The framing of a body, and the position in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// The number of remaining bytes.
    Length(u64),
    /// Chunked (RFC 9112, 7.1).
    Chunked(Chunk),
    /// The body ends when the server closes the connection.
    UntilClose,
}

/// The position in a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    /// The size of a chunk, of which `digits` digits were read.
    Size { size: u64, digits: u8 },
    /// The rest of the line after the size.
    Extension { size: u64 },
    /// The content, with the number of remaining bytes.
    Content(u64),
    /// The line end after the content.
    ContentEnd,
    /// A trailer line, or the blank line that ends the body. `is_blank` as long as the line has no
    /// byte except CR.
    Trailer { is_blank: bool },
}

/// The result of reading some bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// All bytes belong to the body, and the body continues.
    Unfinished,
    /// The body ended after this number of bytes.
    Finished(usize),
    /// The bytes are invalid, so the end of the body is unknown.
    Broken,
}

impl Framing {
    pub(super) fn chunked() -> Self {
        Self::Chunked(Chunk::Size { size: 0, digits: 0 })
    }

    /// Whether the whole body was read.
    pub(super) fn is_finished(self) -> bool {
        self == Self::Length(0)
    }

    /// Reads `bytes` and calls `content` with each part of the content.
    pub(super) fn read(&mut self, bytes: &[u8], mut content: impl FnMut(&[u8])) -> Read {
        match self {
            Self::UntilClose => {
                content(bytes);
                Read::Unfinished
            }
            Self::Length(left) => {
                let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                content(&bytes[..taken]);
                *left -= taken as u64;
                if *left == 0 { Read::Finished(taken) } else { Read::Unfinished }
            }
            Self::Chunked(chunk) => chunk.read(bytes, content),
        }
    }
}

impl Chunk {
    fn read(&mut self, bytes: &[u8], mut content: impl FnMut(&[u8])) -> Read {
        let mut index = 0;
        while index < bytes.len() {
            if let Self::Content(left) = self {
                let rest = &bytes[index..];
                let taken = rest.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                content(&rest[..taken]);
                index += taken;
                *left -= taken as u64;
                if *left == 0 {
                    *self = Self::ContentEnd;
                }
                continue;
            }
            let byte = bytes[index];
            index += 1;
            *self = match (*self, byte) {
                (Self::Trailer { is_blank: true }, b'\n') => return Read::Finished(index),
                (before, byte) => match before.after(byte) {
                    Some(after) => after,
                    None => return Read::Broken,
                },
            };
        }
        Read::Unfinished
    }

    /// The position after a byte that is not content, or `None` if the byte is invalid here.
    fn after(self, byte: u8) -> Option<Self> {
        Some(match (self, byte) {
            (Self::Size { size, digits }, _) if byte.is_ascii_hexdigit() => {
                let digit = char::from(byte).to_digit(16)?;
                Self::Size {
                    size: size.checked_mul(16)? + u64::from(digit),
                    digits: digits.checked_add(1)?,
                }
            }
            (Self::Size { digits: 0, .. }, _) => return None,
            (Self::Size { size, .. } | Self::Extension { size }, b'\n') if size > 0 => {
                Self::Content(size)
            }
            (Self::Size { .. } | Self::Extension { .. } | Self::Trailer { .. }, b'\n') => {
                Self::Trailer { is_blank: true }
            }
            (Self::Size { size, .. }, b';' | b' ' | b'\t' | b'\r')
            | (Self::Extension { size }, _) => Self::Extension { size },
            (Self::ContentEnd, b'\r') => Self::ContentEnd,
            (Self::ContentEnd, b'\n') => Self::Size { size: 0, digits: 0 },
            (Self::Trailer { is_blank }, b'\r') => Self::Trailer { is_blank },
            (Self::Trailer { .. }, _) => Self::Trailer { is_blank: false },
            (Self::Size { .. } | Self::ContentEnd | Self::Content(_), _) => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads `bytes` in pieces of this size: the content, and what came of it, with the count from
    /// the beginning.
    fn read(mut framing: Framing, bytes: &[u8], piece: usize) -> (Vec<u8>, Read) {
        let (mut all, mut before) = (Vec::new(), 0);
        for piece in bytes.chunks(piece) {
            match framing.read(piece, |content| all.extend_from_slice(content)) {
                Read::Unfinished => before += piece.len(),
                Read::Finished(taken) => return (all, Read::Finished(before + taken)),
                Read::Broken => return (all, Read::Broken),
            }
        }
        (all, Read::Unfinished)
    }

    #[track_caller]
    fn chunked(bytes: &str, content: &str, came: Read) {
        for piece in [1, 2, 3, 7, 1000] {
            let (all, was) = read(Framing::chunked(), bytes.as_bytes(), piece);
            assert_eq!(
                (String::from_utf8_lossy(&all).as_ref(), was),
                (content, came),
                "{bytes:?} in pieces of {piece}"
            );
        }
    }

    #[test]
    fn chunks_end_at_their_length() {
        chunked("3\r\nabc\r\n0\r\n\r\nHTTP", "abc", Read::Finished(13));
        chunked(
            "3;a=\"b\"\r\nabc\r\n00A \r\n0123456789\r\n0;x\r\n\r\n",
            "abc0123456789",
            Read::Finished(39),
        );
        chunked("0\r\nx-a: b\r\nx-c: d\r\n\r\nmore", "", Read::Finished(21));
        chunked("3\nabc\n0\n\nmore", "abc", Read::Finished(9));
        chunked("3\r\nab", "ab", Read::Unfinished);
        chunked("0\r\nx-a: b\r\n", "", Read::Unfinished);
        chunked("FFFFFFFFFFFFFFFF\r\nx", "x", Read::Unfinished);
    }

    #[test]
    fn invalid_chunks_are_detected() {
        for bytes in [
            "this is no chunk",
            "\r\n",
            "-1\r\n",
            "1g\r\n",
            ";a\r\n",
            " 1\r\na",
            "FFFFFFFFFFFFFFFFF\r\nx",
        ] {
            chunked(bytes, "", Read::Broken);
        }
        chunked("1\r\nab\r\n", "a", Read::Broken);
        chunked("1\r\na\r\n\r\n", "a", Read::Broken);
        chunked(&format!("{}\r\n", "0".repeat(300)), "", Read::Broken);
    }

    #[test]
    fn a_length_counts_and_a_close_ends() {
        assert_eq!(read(Framing::Length(3), b"abcdef", 2), (b"abc".to_vec(), Read::Finished(3)));
        assert_eq!(read(Framing::Length(u64::MAX), b"abc", 2), (b"abc".to_vec(), Read::Unfinished));
        assert_eq!(read(Framing::UntilClose, b"abc", 2), (b"abc".to_vec(), Read::Unfinished));
        assert!(
            Framing::Length(0).is_finished()
                && !Framing::Length(1).is_finished()
                && !Framing::chunked().is_finished()
        );
    }

    proptest! {
        /// However it is cut: the content comes whole, and nothing after the end is taken.
        #[test]
        fn chunks_come_out_as_they_went_in(
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50),
                0..10),
            after in proptest::collection::vec(any::<u8>(), 0..10), piece in 1_usize..40,
        ) {
            let mut bytes: Vec<u8> =
                chunks.iter().flat_map(|chunk| [format!("{:x}\r\n", chunk.len()).as_bytes(), chunk,
                    b"\r\n"].concat()).collect();
            bytes.extend(b"0\r\n\r\n");
            let length = bytes.len();
            bytes.extend(after);
            let (all, came) = read(Framing::chunked(), &bytes, piece);
            prop_assert_eq!(all, chunks.concat());
            prop_assert_eq!(came, Read::Finished(length));
        }
    }
}
