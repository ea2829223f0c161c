use super::ast::{Initial, Operand, Space, Statement};
use super::*;

fn file(text: &str) -> Result<File, ParseError> {
    parse(text, &Source::new(text))
}

const HEAD: &str = ".version 8.4\n.target sm_80\n.address_size 64\n";

#[test]
fn module_level_variables() {
    let f = file(&format!(
        "{HEAD}.visible .global .align 16 .b8 t[2][3] = {{{{1, 2, 3}}, {{4, -1, 6}}}};\n\
         .const .f32 c = 0f3F800000;\n.extern .shared .align 8 .b8 dyn[];\n\
         .global .v4 .f32 v;\n.global .u64 p[2] = {{t, generic(c)+8}};\n.global .u32 a, b;"
    ))
    .unwrap();
    assert_eq!((f.version, f.target.as_str()), ((8, 4), "sm_80"));
    let sizes: Vec<_> = f.variables.iter().map(|v| (v.bytes, v.align, v.space)).collect();
    assert_eq!(
        sizes,
        [
            (6, 16, Space::Global),
            (4, 4, Space::Const),
            (0, 8, Space::Shared),
            (16, 16, Space::Global),
            (16, 8, Space::Global),
            (4, 4, Space::Global),
            (4, 4, Space::Global),
        ]
    );
    assert_eq!(f.variables[0].initial.len(), 6);
    assert!(matches!(&f.variables[4].initial[1], Initial::Symbol(name, 8) if name == "c"));
}

#[test]
fn entries_with_every_kind_of_parameter() {
    let f = file(&format!(
        "{HEAD}.visible .entry k(\n.param .u64 .ptr .global .align 16 k_param_0,\n\
         .param .align 8 .b8 s[20],\n.param .f32 x\n)\n.maxntid 128, 2, 1\n.minnctapersm 2\n{{\nret;\n}}\n\
         .func (.reg .b32 r) f(.reg .b64 a);"
    ))
    .unwrap();
    let k = &f.functions[0];
    let params: Vec<_> = k.params.iter().map(|p| (p.bytes, p.align, p.pointer)).collect();
    assert_eq!(params, [(8, 8, true), (20, 8, false), (4, 4, false)]);
    assert_eq!((k.max_threads, k.entry, k.defined), (Some(256), true, true));
    assert!(!f.functions[1].defined && !f.functions[1].entry);
}

#[test]
fn bodies() {
    let f = file(&format!(
        "{HEAD}.entry k() {{\n.reg .pred %p<3>;\n.loc 1 2 3\n$L__BB0_1:\n.pragma \"nounroll\";\n\
         @!%p1 bra $L__BB0_1;\n{{ .reg .b16 t; mov.b32 {{t, _}}, %r1; }}\n\
         shfl.sync.up.b32 %r1|%p2, %r2, 1, 0, -1;\nld.shared.b32 %r1, [%r2+-8];\n\
         call.uni (retval0), f, (param0, param1);\n}}\n.section .debug_abbrev {{\n.b8 1\n}}"
    ))
    .unwrap();
    let body = &f.functions[0].body;
    let mut instructions = body.iter().filter_map(|s| match s {
        Statement::Instruction(i) => Some(i),
        _ => None,
    });
    let bra = instructions.next().unwrap();
    assert_eq!((bra.guard.clone(), bra.line), (Some(("%p1".to_string(), true)), 8));
    let mov = instructions.next().unwrap();
    assert!(matches!(&mov.operands[0], Operand::Vector(v) if v[1] == Operand::Sink));
    let shfl = instructions.next().unwrap();
    assert!(matches!(&shfl.operands[0], Operand::Pair(..)));
    let load = instructions.next().unwrap();
    assert_eq!(load.operands[1], Operand::Address { base: Some("%r2".into()), offset: -8 });
    let call = instructions.next().unwrap();
    assert!(matches!(&call.operands[2], Operand::List(v) if v.len() == 2));
}

#[test]
fn errors_name_line_and_text() {
    for (text, line, part) in [
        (String::new(), 1, "no `.version`"),
        (".version 8.4\n".to_string(), 1, "no `.target`"),
        (".version x\n".to_string(), 1, "a version such as 8.4"),
        (".version 8.4\n.target sm_80\n.address_size 32\n".to_string(), 3, "only 64"),
        (format!("{HEAD}.entry k() {{\nadd.u32 %r1 %r2;\n}}"), 5, "expected `,` or `;`, found `%r2`"),
        (format!("{HEAD}.entry k() {{\nret;\n"), 5, "`}` at the end of the function"),
        (format!("{HEAD}.global .b8 x[4\n"), 4, "expected `]`"),
        (format!("{HEAD}.global .align 3 .b8 x;\n"), 4, "not a power of two"),
        (format!("{HEAD}.global .q8 x;\n"), 4, "expected a type"),
        (format!("{HEAD}hello\n"), 4, "expected `.entry`"),
        (format!("{HEAD}.entry k() {{\nmov.u32 %r1, 0f12;\n}}"), 5, "is not a number"),
        (format!("{HEAD}.global .b8 x[99999999999][99999999999];\n"), 4, "too large"),
    ] {
        let error = file(&text).expect_err(&text);
        assert!(error.message.contains(part), "{error}");
        assert_eq!(error.line, line, "{error}");
    }
}
