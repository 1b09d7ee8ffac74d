//! Digest of an order's lines, by which a conditional write checks that a message and the stored
//! order agree, without reading the order.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::values::{Quantity, Sku};

/// Returns the SHA-256, in lower-case hexadecimal digits, of the text that has one line
/// `SKU=QUANTITY` for each line of the order, sorted by SKU. A SKU contains neither `=` nor a line
/// break, so different orders have different texts.
pub fn lines_digest<'a>(lines: impl IntoIterator<Item = (&'a Sku, Quantity)>) -> String {
    let mut lines: Vec<_> = lines.into_iter().collect();
    lines.sort_unstable_by_key(|(sku, _)| *sku);
    let mut text = String::new();
    for (sku, quantity) in lines {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{sku}={}", quantity.get());
    }
    let digest = Sha256::digest(text);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(lines: &[(&str, u64)]) -> String {
        let lines: Vec<(Sku, Quantity)> = lines
            .iter()
            .map(|(sku, quantity)| {
                let sku = Sku::try_from((*sku).to_owned()).unwrap();
                (sku, Quantity::try_from(*quantity).unwrap())
            })
            .collect();
        lines_digest(lines.iter().map(|(sku, quantity)| (sku, *quantity)))
    }

    #[test]
    fn the_digest_is_the_documented_hash_whatever_the_order_of_the_lines() {
        // `printf 'A=1\nB=20\n' | sha256sum`
        let expected = "aabf29b2d6bf6ac117419e898c177500e126542d6489a1d289121bd17d4de0ba";
        assert_eq!(digest(&[("A", 1), ("B", 20)]), expected);
        assert_eq!(digest(&[("B", 20), ("A", 1)]), expected);
    }

    #[test]
    fn other_lines_have_another_digest() {
        let of = [
            digest(&[("A", 1)]),
            digest(&[("A", 2)]),
            digest(&[("A1", 1)]),
            digest(&[("A", 1), ("B", 1)]),
            digest(&[("A", 11)]),
        ];
        for (n, digest) in of.iter().enumerate() {
            assert!(!of[..n].contains(digest));
        }
    }
}
