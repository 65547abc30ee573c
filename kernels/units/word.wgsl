// What a thread copies at a time: a word.

alias Unit = u32;
