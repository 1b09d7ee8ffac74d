//! Reads from a PartiQL `UPDATE` or `DELETE` which item it writes. dynoxide has a complete parser,
//! but does not export it.

use std::collections::HashMap;
use std::iter::Peekable;
use std::str::CharIndices;

/// Table of a statement, and the attributes that its `WHERE` clause compares with `=`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub(super) table: String,
    pub(super) equals: HashMap<String, Operand>,
}

/// Right side of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Operand {
    /// The value of the parameter at this position, from 0.
    Parameter(usize),
    Text(String),
    Number(String),
}

/// Returns the target of an `UPDATE` or `DELETE`, and `None` for other statements.
pub(super) fn target(statement: &str) -> Option<Target> {
    let tokens: Vec<_> = Tokens::new(statement).collect();
    let (table, rest) = match &tokens[..] {
        [first, table, rest @ ..] if first.is_word("UPDATE") => (table, rest),
        [first, from, table, rest @ ..] if first.is_word("DELETE") && from.is_word("FROM") => {
            (table, rest)
        }
        _ => return None,
    };
    let condition = rest.iter().position(|token| token.is_word("WHERE"))?;
    let mut position = parameters(&rest[..condition]);
    let mut equals = HashMap::new();
    // Only `name = operand` matters here: the key must be given in this form.
    for window in rest[condition..].windows(3) {
        if let [name, Token::Symbol('='), operand] = window
            && let (Some(name), Some(operand)) = (name.name(), operand.operand(position))
        {
            equals.insert(name.to_owned(), operand);
        }
        if window[0] == Token::Parameter {
            position += 1;
        }
    }
    Some(Target {
        table: table.name()?.to_owned(),
        equals,
    })
}

fn parameters(tokens: &[Token]) -> usize {
    let parameters = tokens.iter().filter(|token| **token == Token::Parameter);
    parameters.count()
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// Keyword, unquoted name or number.
    Word(String),
    /// Name in double quotes.
    Name(String),
    /// Text in single quotes.
    Text(String),
    Parameter,
    Symbol(char),
}

impl Token {
    fn is_word(&self, keyword: &str) -> bool {
        matches!(self, Self::Word(word) if word.eq_ignore_ascii_case(keyword))
    }

    fn name(&self) -> Option<&str> {
        match self {
            Self::Word(name) | Self::Name(name) => Some(name),
            _ => None,
        }
    }

    /// Returns the operand. `position` is that of the next parameter.
    fn operand(&self, position: usize) -> Option<Operand> {
        match self {
            Self::Parameter => Some(Operand::Parameter(position)),
            Self::Text(text) => Some(Operand::Text(text.clone())),
            Self::Word(word) => Some(Operand::Number(word.clone())),
            _ => None,
        }
    }
}

struct Tokens<'a> {
    statement: &'a str,
    characters: Peekable<CharIndices<'a>>,
}

impl<'a> Tokens<'a> {
    fn new(statement: &'a str) -> Self {
        Self {
            statement,
            characters: statement.char_indices().peekable(),
        }
    }

    /// Reads up to the closing `quote`; two of them are one character of the text.
    fn quoted(&mut self, quote: char) -> String {
        let mut text = String::new();
        while let Some((_, character)) = self.characters.next() {
            if character == quote && self.characters.next_if(|(_, c)| *c == quote).is_none() {
                break;
            }
            text.push(character);
        }
        text
    }

    fn word(&mut self, start: usize) -> String {
        while self.characters.next_if(|(_, c)| in_word(*c)).is_some() {}
        let end = self.characters.peek().map(|(end, _)| *end);
        self.statement[start..end.unwrap_or(self.statement.len())].to_owned()
    }
}

fn in_word(character: char) -> bool {
    character.is_alphanumeric() || matches!(character, '_' | '.' | '-' | '+')
}

impl Iterator for Tokens<'_> {
    type Item = Token;

    fn next(&mut self) -> Option<Token> {
        while self
            .characters
            .next_if(|(_, c)| c.is_whitespace())
            .is_some()
        {}
        let (start, character) = self.characters.next()?;
        Some(match character {
            '"' => Token::Name(self.quoted('"')),
            '\'' => Token::Text(self.quoted('\'')),
            '?' => Token::Parameter,
            other if in_word(other) => Token::Word(self.word(start)),
            other => Token::Symbol(other),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn equals(statement: &str) -> (String, Vec<(String, Operand)>) {
        let target = target(statement).unwrap();
        let mut equals: Vec<_> = target.equals.into_iter().collect();
        equals.sort_by(|a, b| a.0.cmp(&b.0));
        (target.table, equals)
    }

    #[test]
    fn parameters_are_counted_from_the_start_of_the_statement() {
        let (table, equals) = equals(
            r#"update "outbox" SET "status"='it''s ?' SET message_id=? REMOVE state_bucket
               WHERE aggregate_id=? AND "sequence" = ? AND "status"='PENDING' AND a > ? AND b=?"#,
        );
        assert_eq!(table, "outbox");
        let of = |name: &str, operand| (name.to_owned(), operand);
        assert_eq!(
            equals,
            [
                of("aggregate_id", Operand::Parameter(1)),
                of("b", Operand::Parameter(4)),
                of("sequence", Operand::Parameter(2)),
                of("status", Operand::Text("PENDING".to_owned())),
            ]
        );
    }

    #[test]
    fn literals_are_operands() {
        let (table, equals) = equals("DELETE FROM t WHERE n = -1.5 AND s = 'it''s'");
        assert_eq!(table, "t");
        assert_eq!(equals[0].1, Operand::Number("-1.5".to_owned()));
        assert_eq!(equals[1].1, Operand::Text("it's".to_owned()));
    }

    #[test]
    fn other_statements_have_no_target() {
        for statement in [
            "",
            "SELECT * FROM t WHERE a = 1",
            "UPDATE",
            "UPDATE t SET a = 1",
            "DELETE t",
            "INSERT INTO t VALUE {'a': 1}",
            "UPDATE 't' SET a = 1 WHERE",
            "\u{1F600} ' \" ?",
        ] {
            assert_eq!(target(statement), None, "{statement}");
        }
    }
}
