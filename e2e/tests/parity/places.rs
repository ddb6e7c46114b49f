//! Where in a JSON body a cut falls, as its bytes are read: in an escape, a character, a number, a name.

/// The kind of place between two bytes of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Place {
    /// Between a backslash and what it escapes.
    Escape,
    /// Within the four digits of `\u`.
    Digits,
    /// Between the two halves of a surrogate pair.
    Surrogates,
    /// Within a character of several bytes.
    Character,
    /// Within a number.
    Number,
    /// Within `true`, `false` or `null`.
    Literal,
    /// Within the name of a field.
    Name,
    /// Within the string that names the model.
    Model,
    /// Within another string.
    Text,
    /// Anywhere else.
    Structure,
}

impl Place {
    pub(crate) const ALL: [Self; 10] = [
        Self::Escape,
        Self::Digits,
        Self::Surrogates,
        Self::Character,
        Self::Number,
        Self::Literal,
        Self::Name,
        Self::Model,
        Self::Text,
        Self::Structure,
    ];
}

/// The place before each byte but the first: `places(body)[at - 1]` is where a cut after `at` bytes falls. The body may be broken.
pub(crate) fn places(body: &[u8]) -> Vec<Place> {
    let mut reader = Reader {
        body,
        at: 0,
        places: Vec::with_capacity(body.len()),
        last_name: Vec::new(),
    };
    while reader.at < body.len() {
        reader.token();
    }
    reader.places.truncate(body.len().saturating_sub(1));
    reader.places
}

struct Reader<'a> {
    body: &'a [u8],
    at: usize,
    /// The place after each byte that was read.
    places: Vec<Place>,
    last_name: Vec<u8>,
}

impl Reader<'_> {
    /// Takes a byte, after which a cut is at this place.
    fn take(&mut self, place: Place) {
        self.at += 1;
        self.places.push(place);
    }

    fn peek(&self) -> Option<u8> {
        self.body.get(self.at).copied()
    }

    fn token(&mut self) {
        match self.body[self.at] {
            b'"' => self.string(),
            byte if is_number(byte) => self.run(Place::Number, is_number),
            byte if byte.is_ascii_alphabetic() => self.run(Place::Literal, |byte| byte.is_ascii_alphabetic()),
            _ => self.take(Place::Structure),
        }
    }

    fn run(&mut self, place: Place, of: fn(u8) -> bool) {
        while self.peek().is_some_and(of) {
            let is_last = !self.body.get(self.at + 1).copied().is_some_and(of);
            self.take(if is_last { Place::Structure } else { place });
        }
    }

    fn string(&mut self) {
        let end = end_of_string(self.body, self.at + 1);
        let after = self.body[end..].iter().find(|byte| !byte.is_ascii_whitespace());
        let place = match after {
            Some(b':') => Place::Name,
            _ if self.last_name == b"\"model\"" => Place::Model,
            _ => Place::Text,
        };
        let text = &self.body[self.at..end];
        self.last_name = if place == Place::Name {
            text.to_vec()
        } else {
            Vec::new()
        };
        while self.at + 1 < end {
            self.unit(place);
        }
        if self.at < end {
            self.take(Place::Structure);
        }
    }

    /// A byte, an escape, or a character of several bytes.
    fn unit(&mut self, place: Place) {
        let rest = &self.body[self.at..];
        match rest {
            [b'\\', b'u', digits @ ..] if digits.len() >= 4 => {
                self.take(Place::Escape);
                (0..4).for_each(|_| self.take(Place::Digits));
                let high = digits[..2].eq_ignore_ascii_case(b"d8")
                    || digits[..2].eq_ignore_ascii_case(b"d9")
                    || digits[..2].eq_ignore_ascii_case(b"da")
                    || digits[..2].eq_ignore_ascii_case(b"db");
                self.take(if high { Place::Surrogates } else { place });
            }
            [b'\\', _, ..] => {
                self.take(Place::Escape);
                self.take(place);
            }
            _ => {
                let is_within = |byte: u8| byte & 0xC0 == 0x80;
                while self.body.get(self.at + 1).copied().is_some_and(is_within) {
                    self.take(Place::Character);
                }
                self.take(place);
            }
        }
    }
}

fn is_number(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.')
}

/// Just behind the quote that ends a string, or the end of a body that has none.
fn end_of_string(body: &[u8], mut at: usize) -> usize {
    while at < body.len() {
        match body[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    body.len()
}
