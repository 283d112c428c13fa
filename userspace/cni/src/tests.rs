mod commands;
mod labels;
mod server;
mod texts;
