//! Random numbers as a pure function of where they are used: Philox4x32 with ten rounds (Salmon et al., "Parallel
//! random numbers: as easy as 1, 2, 3", 2011). No state, so a replay or a rejected speculation draws the same.

/// What a number is drawn for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose {
    /// The final draw.
    Token = 0,
    /// Whether XTC strikes.
    Xtc = 1,
}

/// A number in [0, 1) for one purpose at one position of one choice.
pub(super) fn uniform(seed: u64, choice: u32, position: u64, purpose: Purpose) -> f64 {
    let counter = [position as u32, (position >> 32) as u32, choice, purpose as u32];
    let words = philox4x32(counter, [seed as u32, (seed >> 32) as u32]);
    let bits = (u64::from(words[0]) << 32 | u64::from(words[1])) >> 11;
    bits as f64 / (1u64 << 53) as f64
}

fn philox4x32(mut counter: [u32; 4], mut key: [u32; 2]) -> [u32; 4] {
    for round in 0..10 {
        if round > 0 {
            key = [key[0].wrapping_add(0x9E37_79B9), key[1].wrapping_add(0xBB67_AE85)];
        }
        let a = u64::from(counter[0]) * 0xD251_1F53;
        let b = u64::from(counter[2]) * 0xCD9E_8D57;
        counter = [
            (b >> 32) as u32 ^ counter[1] ^ key[0],
            b as u32,
            (a >> 32) as u32 ^ counter[3] ^ key[1],
            a as u32,
        ];
    }
    counter
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers that come with the authors' library.
    #[test]
    fn philox_gives_the_known_answers() {
        for (counter, key, expected) in [
            ([0; 4], [0; 2], [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], [u32::MAX; 2], [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                [0xa409_3822, 0x299f_31d0],
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ] {
            assert_eq!(philox4x32(counter, key), expected);
        }
    }

    #[test]
    fn every_coordinate_matters() {
        let at = |seed, choice, position, purpose| uniform(seed, choice, position, purpose).to_bits();
        let base = at(1, 2, 3, Purpose::Token);
        assert_eq!(base, at(1, 2, 3, Purpose::Token));
        for other in [
            at(2, 2, 3, Purpose::Token),
            at(1 << 32, 2, 3, Purpose::Token),
            at(1, 3, 3, Purpose::Token),
            at(1, 2, 4, Purpose::Token),
            at(1, 2, 3 | 1 << 40, Purpose::Token),
            at(1, 2, 3, Purpose::Xtc),
        ] {
            assert_ne!(base, other);
        }
    }
}
