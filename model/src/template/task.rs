//! The task header: one line that tells the model which task a prompt belongs to.

/// How a task is called in its header.
///
/// A name that has a capital letter is kept as it is (`"Text to SQL"`). Any other is taken apart at
/// `_`, `-`, `.` and spaces; words of up to three letters are taken for acronyms and written in
/// capitals, longer ones get a capital first letter: `qa` → `QA`, `summarization` → `Summarization`,
/// `medical_qa` → `Medical QA`.
pub fn task_label(name: &str) -> String {
    if name.chars().any(char::is_uppercase) {
        return name.to_string();
    }
    let words = name.split(['_', '-', '.', ' ']).filter(|w| !w.is_empty());
    words
        .map(|word| {
            if word.chars().count() <= 3 {
                return word.to_uppercase();
            }
            let mut chars = word.chars();
            match chars.next() {
                Some(first) => first.to_uppercase().chain(chars).collect(),
                None => String::new(),
            }
        })
        .collect::<Vec<String>>()
        .join(" ")
}

/// The header line of a task: `### Task: QA` and a line break.
pub fn task_header(name: &str) -> String {
    format!("### Task: {}\n", task_label(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_follow_the_documented_rule() {
        for (name, label) in [
            ("qa", "QA"),
            ("summarization", "Summarization"),
            ("medical_qa", "Medical QA"),
            ("ner-biomed", "NER Biomed"),
            ("Text to SQL", "Text to SQL"),
            ("分类", "分类"),
        ] {
            assert_eq!(task_label(name), label);
        }
        assert_eq!(task_header("qa"), "### Task: QA\n");
    }
}
