//! Offsets of fields in the running kernel's structures, from its type information (BTF, Documentation/bpf/btf.rst).

#![forbid(unsafe_code)]

use std::fs;

use anyhow::{Context, Result, ensure};

/// The file in which the kernel provides it.
const FILE: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
/// The size of a type's common part, in bytes.
const TYPE: usize = 12;
/// The size of a structure's member, in bytes.
const MEMBER: usize = 12;
const STRUCT: u32 = 4;
const UNION: u32 = 5;

/// The types of the kernel.
pub struct KernelTypes {
    bytes: Vec<u8>,
    strings: usize,
    /// The offset of each type, by its number. Number 0 is void.
    types: Vec<usize>,
}

impl KernelTypes {
    /// The types of the running kernel.
    ///
    /// # Errors
    /// If they are missing or malformed.
    pub fn of_this_kernel() -> Result<Self> {
        let bytes = fs::read(FILE).with_context(|| format!("cannot read {FILE}"))?;
        Self::parse(bytes).with_context(|| format!("cannot understand {FILE}"))
    }

    fn parse(bytes: Vec<u8>) -> Result<Self> {
        let mut types = Self { bytes, strings: 0, types: vec![0] };
        ensure!(types.half(0) == Some(MAGIC), "it is not BTF of this machine's byte order");
        let number = |at| types.word(at).map(|word| word as usize);
        let header = number(4).context("it is too short")?;
        let [begin, length, strings] = [8, 12, 16].map(number);
        let (begin, length) = (begin.context("it is too short")?, length.context("it is too short")?);
        types.strings = header + strings.context("it is too short")?;
        let mut at = header + begin;
        let end = at + length;
        while at < end {
            types.types.push(at);
            at += TYPE + types.extra(at).context("a type is of an unknown kind")?;
        }
        Ok(types)
    }

    /// The offset of a field in the structure with this name, in bytes.
    ///
    /// # Errors
    /// If there is no such structure or field.
    pub fn offset(&self, structure: &str, field: &str) -> Result<u32> {
        let is_it =
            |at: &usize| self.kind(*at) == Some(STRUCT) && self.name(*at) == Some(structure.as_bytes());
        let mut found = self.types.iter().skip(1).copied().filter(is_it);
        let bits = found.find_map(|at| self.field(at, field));
        let bits = bits.with_context(|| format!("this kernel's struct {structure} has no field {field}"))?;
        Ok(bits / 8)
    }

    /// The offset of a field in the structure at this offset, in bits, including fields in anonymous members.
    fn field(&self, at: usize, field: &str) -> Option<u32> {
        let info = self.word(at + 4)?;
        let has_bit_fields = info >> 31 != 0;
        (0..info as usize & 0xffff).find_map(|number| {
            let member = at + TYPE + number * MEMBER;
            let offset = self.word(member + 8)?;
            let offset = if has_bit_fields { offset & 0x00ff_ffff } else { offset };
            match self.name(member)? {
                name if name == field.as_bytes() => Some(offset),
                [] => {
                    let of = *self.types.get(self.word(member + 4)? as usize)?;
                    let is_one = matches!(self.kind(of)?, STRUCT | UNION);
                    is_one.then(|| self.field(of, field))?.map(|inner| offset + inner)
                }
                _ => None,
            }
        })
    }

    /// The size of the kind-specific part of the type at this offset, in bytes.
    fn extra(&self, at: usize) -> Option<usize> {
        let count = self.word(at + 4)? as usize & 0xffff;
        Some(match self.kind(at)? {
            // int, var, decl_tag
            1 | 14 | 17 => 4,
            // ptr, fwd, typedef, volatile, const, restrict, func, float, type_tag
            2 | 7..=12 | 16 | 18 => 0,
            // array
            3 => 12,
            // struct, union, datasec, enum64
            4 | 5 | 15 | 19 => 12 * count,
            // enum, func_proto
            6 | 13 => 8 * count,
            _ => return None,
        })
    }

    fn kind(&self, at: usize) -> Option<u32> {
        Some(self.word(at + 4)? >> 24 & 0x1f)
    }

    /// The name of the type or member at this offset.
    fn name(&self, at: usize) -> Option<&[u8]> {
        let rest = self.bytes.get(self.strings + self.word(at)? as usize..)?;
        rest.split(|byte| *byte == 0).next()
    }

    fn half(&self, at: usize) -> Option<u16> {
        Some(u16::from_ne_bytes(self.bytes.get(at..at + 2)?.try_into().ok()?))
    }

    fn word(&self, at: usize) -> Option<u32> {
        Some(u32::from_ne_bytes(self.bytes.get(at..at + 4)?.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `struct outer { int first; struct { int second; union { int third; }; }; int fourth: 8; }` and its types.
    fn example() -> Vec<u8> {
        let strings = b"\0int\0outer\0first\0second\0third\0fourth\0";
        let at = |name: &str| {
            let found = strings.windows(name.len() + 1).position(|it| it == [name.as_bytes(), &[0]].concat());
            found.unwrap() as u32
        };
        let info = |kind: u32, count: u32, bits: bool| kind << 24 | count | u32::from(bits) << 31;
        let types = [
            vec![at("int"), info(1, 0, false), 4, 32],
            vec![0, info(UNION, 1, false), 4, at("third"), 1, 0],
            vec![0, info(STRUCT, 2, false), 8, at("second"), 1, 0, 0, 2, 32],
            vec![
                at("outer"),
                info(STRUCT, 3, true),
                16,
                at("first"),
                1,
                0,
                0,
                3,
                32,
                at("fourth"),
                1,
                8 << 24 | 96,
            ],
        ];
        let types: Vec<u8> = types.concat().iter().flat_map(|word| word.to_ne_bytes()).collect();
        let mut bytes = MAGIC.to_ne_bytes().to_vec();
        bytes.extend([1, 0]);
        let length = types.len() as u32;
        bytes.extend(
            [24, 0, length, length, strings.len() as u32].iter().flat_map(|word: &u32| word.to_ne_bytes()),
        );
        [bytes, types, strings.to_vec()].concat()
    }

    #[test]
    fn fields_are_found_also_in_parts_without_a_name() {
        let types = KernelTypes::parse(example()).unwrap();
        let offset = |field| types.offset("outer", field).ok();
        assert_eq!(["first", "second", "third", "fourth"].map(offset), [Some(0), Some(4), Some(8), Some(12)]);
        let error = types.offset("outer", "fifth").unwrap_err().to_string();
        assert_eq!(error, "this kernel's struct outer has no field fifth");
        assert!(types.offset("int", "first").is_err());
    }

    #[test]
    fn what_is_cut_off_or_something_else_is_refused() {
        let whole = example();
        for length in 0..whole.len() {
            // Nothing panics, and the types that remain are found.
            if let Ok(types) = KernelTypes::parse(whole[..length].to_vec()) {
                let _ = types.offset("outer", "third");
            }
        }
        assert!(KernelTypes::parse(b"not BTF at all, whatever it is".to_vec()).is_err());
    }

    #[test]
    fn this_kernel_s_devices_have_an_index() {
        let types = KernelTypes::of_this_kernel().unwrap();
        assert!(types.offset("net_device", "ifindex").unwrap() > 0);
        assert!(types.offset("bpf_prog", "aux").unwrap() > 0);
        assert!(types.offset("bpf_prog_aux", "id").unwrap() > 0);
    }
}
