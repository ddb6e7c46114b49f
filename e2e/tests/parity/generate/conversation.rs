//! Conversations: each turn brings all that came before it, so that caches matter; several go on at one time.

use serde_json::{Value, json};

use super::maker::Maker;

impl Maker {
    /// So many conversations of so many turns with these models, in turn, every other turn explained.
    pub(crate) fn conversations(&mut self, models: &[&str], count: usize, turns: usize) {
        let system = self.draws.paragraph();
        let mut said: Vec<Vec<Value>> = (0..count)
            .map(|_| vec![json!({"role": "system", "content": system})])
            .collect();
        for turn in 0..turns {
            for (number, messages) in said.iter_mut().enumerate() {
                messages.push(json!({"role": "user", "content": self.draws.paragraph()}));
                let mut request = self.chat(models[number % models.len()], json!(messages));
                request.name = format!("{}, conversation {number}, turn {turn}", request.name);
                if (turn + number) % 2 == 0 {
                    request.headers.insert("x-kthena-explain".to_owned(), "why".to_owned());
                }
                self.add(request);
                messages.push(json!({"role": "assistant", "content": self.draws.sentence()}));
            }
        }
    }
}
