"""The modules that every segment rests on. Private: anything in here may change."""
