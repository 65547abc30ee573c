// What a thread copies at a time: four words, for a load of each by itself takes a software adapter twice as long.

alias Unit = vec4u;
