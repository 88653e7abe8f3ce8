//! Which of two Debian versions is newer (deb-version(7)).

use std::cmp::Ordering;

/// Compares `[epoch:]upstream[-revision]`.
pub(super) fn compare(a: &str, b: &str) -> Ordering {
    let parts = |version: &'_ str| -> (u64, usize) {
        let (epoch, start) = version.split_once(':').map_or((0, 0), |(epoch, _)| (epoch.parse().unwrap_or(0), epoch.len() + 1));
        (epoch, start)
    };
    let ((a_epoch, a_start), (b_epoch, b_start)) = (parts(a), parts(b));
    let (a, a_revision) = a[a_start..].rsplit_once('-').unwrap_or((&a[a_start..], ""));
    let (b, b_revision) = b[b_start..].rsplit_once('-').unwrap_or((&b[b_start..], ""));
    a_epoch.cmp(&b_epoch).then_with(|| part(a, b)).then_with(|| part(a_revision, b_revision))
}

/// Parts without digits and numbers in turn. `~` is before everything, even the end; letters are before all else.
fn part(mut a: &str, mut b: &str) -> Ordering {
    loop {
        let (a_text, b_text) = (text(&mut a), text(&mut b));
        let order = |c: Option<u8>| match c {
            Some(b'~') => -1,
            None => 0,
            Some(c) if c.is_ascii_alphabetic() => i32::from(c),
            Some(c) => i32::from(c) + 256,
        };
        for at in 0..a_text.len().max(b_text.len()) {
            let place = |text: &str| order(text.as_bytes().get(at).copied());
            match place(a_text).cmp(&place(b_text)) {
                Ordering::Equal => {}
                other => return other,
            }
        }
        let (a_number, b_number) = (number(&mut a), number(&mut b));
        match a_number.len().cmp(&b_number.len()).then_with(|| a_number.cmp(b_number)) {
            Ordering::Equal if a.is_empty() && b.is_empty() => return Ordering::Equal,
            Ordering::Equal => {}
            other => return other,
        }
    }
}

fn text<'a>(rest: &mut &'a str) -> &'a str {
    let (text, after) = rest.split_at(rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len()));
    *rest = after;
    text
}

/// The digits without leading zeros, so that the longer ones are the greater.
fn number<'a>(rest: &mut &'a str) -> &'a str {
    let (digits, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len()));
    *rest = after;
    digits.trim_start_matches('0')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_as_dpkg_orders_them() {
        let rising = [
            "0~",
            "0",
            "0.9~rc1-1",
            "0.9-0.1",
            "0.9-1",
            "0.9-1+b1",
            "0.9-1.1",
            "0.9a-1",
            "0.9+x-1",
            "0.10-1",
            "2.41-12",
            "2.41-12+deb13u4",
            "2.41-13~deb13u1",
            "2.41-13",
            "02.42",
            "1:0.1",
            "10:0",
        ];
        for (at, a) in rising.iter().enumerate() {
            for (beside, b) in rising.iter().enumerate() {
                assert_eq!(compare(a, b), at.cmp(&beside), "{a} and {b}");
            }
        }
        assert_eq!(compare("1.0-1", "0:1.00-01"), Ordering::Equal);
        assert_eq!(compare("1.0", "1.0-0"), Ordering::Equal);
    }
}
