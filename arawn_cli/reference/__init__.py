"""What the tool reads and writes, told to people and programs: `config show`, `init` and `schema`."""
