//! Makes the requests of the corpus, the same each time: a story for each picture, told with a seed.

mod conversation;
mod draws;
mod forms;
mod maker;
mod refused;
mod spelling;
mod stories;
mod words;

pub(crate) use forms::all as forms;
pub(crate) use stories::requests;
