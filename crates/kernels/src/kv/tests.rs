use super::*;
use crate::{ClaimOrder, Isa};

const TYPES: [KvType; 5] = KvType::ALL;

fn numbers(n: usize, seed: u32) -> Vec<f32> {
    (0..n as u32).map(|i| ((i.wrapping_mul(0x9E37_79B9) ^ seed) >> 8) as f32 / 8_388_608.0 - 1.0).collect()
}

/// Reads back a slot as floats.
pub(crate) fn read(layer: &KvLayer, block: u32, head: usize, slot: usize) -> (Vec<f32>, Vec<f32>) {
    let layout = layer.layout();
    // Lane `lane` of the `vector`-th of the vectors that are stored together from `first` on.
    let decode = |codes: &[u8], first: usize, vector: usize, lane: usize| {
        let i = first + vector * N_LANES + lane;
        match layout.kv_type {
            KvType::F32 => cast_slice::<u8, f32>(codes)[i],
            KvType::F16 => cast_slice::<u8, f16>(codes)[i].to_f32(),
            KvType::BF16 => cast_slice::<u8, bf16>(codes)[i].to_f32(),
            KvType::Q8_0 => f32::from(codes[i] as i8),
            KvType::Q4_0 => {
                let byte = codes[first + vector / 2 * N_LANES + lane];
                f32::from(if vector.is_multiple_of(2) { byte & 15 } else { byte >> 4 }) - 8.0
            }
        }
    };
    let scaled = matches!(layout.kv_type, KvType::Q8_0 | KvType::Q4_0);
    let keys = layer.keys(block, head, slot / N_LANES);
    let lane = slot % N_LANES;
    let key = (0..layout.k_dim).map(|d| {
        let scale = if scaled { keys.scales[d / QUANT_BLOCK * N_LANES + lane].to_f32() } else { 1.0 };
        decode(keys.codes, 0, d, lane) * scale
    });
    let values = layer.values(block, head, slot / N_LANES);
    let n_scales = layout.v_padded().div_ceil(QUANT_BLOCK);
    let n_vectors = layout.v_padded() / N_LANES;
    let row = if layout.kv_type == KvType::Q4_0 { n_vectors.div_ceil(2) } else { n_vectors } * N_LANES;
    let value = (0..layout.v_dim).map(|d| {
        let scale = if scaled { values.scales[lane * n_scales + d / QUANT_BLOCK].to_f32() } else { 1.0 };
        decode(values.codes, lane * row, d / N_LANES, d % N_LANES) * scale
    });
    (key.collect(), value.collect())
}

fn close(kv_type: KvType, stored: &[f32], given: &[f32]) -> bool {
    stored.chunks(QUANT_BLOCK).zip(given.chunks(QUANT_BLOCK)).all(|(stored, given)| {
        let largest = given.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        stored.iter().zip(given).all(|(&s, &g)| match kv_type {
            KvType::F32 => s == g,
            KvType::F16 => s == f16::from_f32(g).to_f32(),
            KvType::BF16 => s == bf16::from_f32(g).to_f32(),
            KvType::Q8_0 => (s - g).abs() <= largest / 127.0 * 0.56,
            // The largest of the other sign may be one code away.
            KvType::Q4_0 => (s - g).abs() <= largest / 8.0 * 1.01,
        })
    })
}

#[test]
fn what_is_stored_comes_back_rounded() {
    for kv_type in TYPES {
        for (n_kv_heads, k_dim, v_dim, block_size) in
            [(1, 64, 64, 16), (3, 40, 72, 32), (2, 5, 1, 16), (5, 128, 128, 64)]
        {
            let layout = KvLayout { kv_type, n_kv_heads, k_dim, v_dim, block_size };
            let mut layer = KvLayer::new(layout, 7);
            assert_eq!(layer.n_bytes(), 7 * layout.block_bytes());
            // Every slot of every block, in a scattered order.
            let n = 7 * block_size;
            let slots: Vec<(u32, u32)> = (0..n)
                .map(|i| i * 37 % n)
                .map(|i| ((i / block_size) as u32, (i % block_size) as u32))
                .collect();
            let (k, v) = (numbers(n * n_kv_heads * k_dim, 1), numbers(n * n_kv_heads * v_dim, 2));
            let pool = Pool::with(2, Isa::detect(), ClaimOrder::Shuffled(4));
            layer.store(&pool, &k, &v, &slots);
            for (i, &(block, slot)) in slots.iter().enumerate() {
                for head in 0..n_kv_heads {
                    let (key, value) = read(&layer, block, head, slot as usize);
                    let row = i * n_kv_heads + head;
                    assert!(close(kv_type, &key, &k[row * k_dim..][..k_dim]), "{layout:?}");
                    assert!(close(kv_type, &value, &v[row * v_dim..][..v_dim]), "{layout:?}");
                }
            }
        }
    }
}

#[test]
fn copies_exactly_the_slots_asked_for() {
    for kv_type in TYPES {
        let layout = KvLayout { kv_type, n_kv_heads: 2, k_dim: 40, v_dim: 24, block_size: 32 };
        for (from, to, n_slots) in [(0, 2, 32), (2, 1, 16), (1, 0, 5), (0, 1, 21), (1, 2, 0), (1, 1, 7)] {
            let mut layer = KvLayer::new(layout, 3);
            let slots: Vec<(u32, u32)> = (0..3).flat_map(|b| (0..32).map(move |s| (b, s))).collect();
            let pool = Pool::with(1, Isa::Scalar, ClaimOrder::Forward);
            layer.store(&pool, &numbers(96 * 80, 3), &numbers(96 * 48, 4), &slots);
            let before: Vec<_> =
                (0..32).map(|slot| [0, 1].map(|head| read(&layer, to, head, slot))).collect();
            layer.copy_block(from, to, n_slots);
            for (slot, before) in before.iter().enumerate() {
                for (head, before) in before.iter().enumerate() {
                    let expected =
                        if slot < n_slots { read(&layer, from, head, slot) } else { before.clone() };
                    assert_eq!(read(&layer, to, head, slot), expected, "{kv_type:?} {n_slots} {slot}");
                }
            }
        }
    }
}

#[test]
fn of_a_part_of_a_block_nothing_else_leaves() {
    for kv_type in TYPES {
        let layout = KvLayout { kv_type, n_kv_heads: 2, k_dim: 40, v_dim: 24, block_size: 32 };
        let pool = Pool::with(1, Isa::Scalar, ClaimOrder::Forward);
        let slots: Vec<(u32, u32)> = (0..32).map(|slot| (1, slot)).collect();
        for n_slots in [0, 1, 16, 21, 31, 32] {
            let mut layer = KvLayer::new(layout, 3);
            layer.store(&pool, &numbers(32 * 80, 3), &numbers(32 * 48, 4), &slots);
            let part = layer.slots(1, n_slots);
            // What a block has into which nothing else was ever stored.
            let mut alone = KvLayer::new(layout, 3);
            let n = n_slots * 2;
            alone.store(
                &pool,
                &numbers(32 * 80, 3)[..n * 40],
                &numbers(32 * 48, 4)[..n * 24],
                &slots[..n_slots],
            );
            assert!(part == alone.block(1), "{kv_type:?} {n_slots}");
            assert_eq!(part == layer.block(1), n_slots == 32, "{kv_type:?} {n_slots}");
        }
    }
}

#[test]
fn quantizes_edge_cases() {
    for isa in Isa::available() {
        assert_eq!(quantize(isa, &[0.0; 32]).0, f16::ZERO);
        // Scales below the smallest f16 vanish with their numbers, instead of becoming infinite inverses.
        assert_eq!(quantize(isa, &[1e-12; 32]).1, [0; 32]);
        let (scale, codes) = quantize(isa, &[127.0, -127.0, 63.4, 62.5, 63.5]);
        assert_eq!((scale, &codes[..6]), (f16::ONE, &[127, -127, 63, 62, 64, 0][..]));
        for i in 0..2000 {
            let x: [f32; 32] = std::array::from_fn(|k| numbers(32, i)[k] * 10f32.powi(i as i32 % 12 - 6));
            let (scale, codes) = quantize(Isa::Scalar, &x);
            let got = quantize(isa, &x);
            assert_eq!((got.0.to_bits(), got.1), (scale.to_bits(), codes), "{isa:?} {x:?}");
        }
    }
}

#[test]
fn quantizes_to_four_bits() {
    let check = |x: &[f32], scale: f32, expected: &[i8]| {
        let (got, codes) = quantize_4(x);
        let codes: Vec<i8> = codes.iter().map(|&code| code as i8 - 8).collect();
        assert_eq!((got.to_f32(), &codes[..x.len()]), (scale, expected), "{x:?}");
        assert!(codes[x.len()..].iter().all(|&code| code == 0), "padding is zero");
    };
    check(&[0.0; 32], 0.0, &[0; 32]);
    check(&[-8.0, 8.0, 7.0, 3.4, 2.5, 3.5, -3.6, 0.4], 1.0, &[-8, 7, 7, 3, 2, 4, -4, 0]);
    check(&[8.0, -8.0, 1.0], -1.0, &[-8, 7, -1]);
    // Within half a step, but for the largest of the other sign.
    for i in 0..500 {
        let x = numbers(32, i);
        let (scale, codes) = quantize_4(&x);
        for (x, code) in x.iter().zip(codes) {
            let back = (f32::from(code) - 8.0) * scale.to_f32();
            let slack = if code == 15 { 1.01 } else { 0.51 };
            assert!((x - back).abs() <= scale.to_f32().abs() * slack, "{x} became {back}");
        }
    }
}

#[test]
fn a_block_moves_bit_for_bit() {
    for kv_type in TYPES {
        let layout = KvLayout { kv_type, n_kv_heads: 2, k_dim: 40, v_dim: 24, block_size: 32 };
        let slots: Vec<(u32, u32)> = (0..32).map(|slot| (1, slot)).collect();
        let pool = Pool::with(1, Isa::Scalar, ClaimOrder::Forward);
        let (mut a, mut b) = (KvLayer::new(layout, 3), KvLayer::new(layout, 2));
        a.store(&pool, &numbers(32 * 80, 5), &numbers(32 * 48, 6), &slots);
        assert_eq!(a.block(1).len(), layout.block_bytes());
        b.set_block(0, a.block(1));
        assert!(b.block(0) == a.block(1) && b.block(1).iter().all(|&byte| byte == 0), "{kv_type:?}");
        for (slot, head) in (0..32).flat_map(|slot| [(slot, 0), (slot, 1)]) {
            assert_eq!(read(&b, 0, head, slot), read(&a, 1, head, slot), "{kv_type:?}");
        }
    }
}

#[test]
fn memory_that_does_not_exist_is_refused() {
    let layout = KvLayout { kv_type: KvType::F16, n_kv_heads: 8, k_dim: 128, v_dim: 128, block_size: 64 };
    assert!(KvLayer::try_new(layout, usize::MAX / 1000).is_none());
    assert!(KvLayer::try_new(layout, usize::MAX / layout.block_bytes()).is_none());
}

#[test]
fn what_is_not_finite_stays_so() {
    let pool = Pool::new(1);
    for kv_type in TYPES {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let layout = KvLayout { kv_type, n_kv_heads: 1, k_dim: 40, v_dim: 40, block_size: 16 };
            let mut layer = KvLayer::new(layout, 1);
            let mut row = numbers(40, 1);
            row[35] = bad;
            layer.store(&pool, &row, &row, &[(0, 3)]);
            let (key, value) = read(&layer, 0, 0, 3);
            assert!(
                !key[35].is_finite() && !value[35].is_finite(),
                "{kv_type:?}: {bad} was stored as a number"
            );
            assert!(key[..32].iter().chain(&value[..32]).all(|x| x.is_finite()), "{kv_type:?}: {bad} spread");
        }
    }
}
