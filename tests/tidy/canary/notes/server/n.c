/* TODO: finish */
int todos;
