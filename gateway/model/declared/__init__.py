"""What a declaration says: the YAML form of all that operators set up. It performs no I/O.

yaml_text   text to values and back: YAML 1.2, bounded, with the line and column of each value
secrets     where a secret comes from
forms       the form of a declaration, from which the JSON Schema is made
objects     the objects of a declaration, in the order in which they are applied
states      an object as flat fields, so that what is wanted and what is there can be compared
compose     a compose file to a declaration
"""
