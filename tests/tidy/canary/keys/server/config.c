static const struct key keys[] = {
    {SECTION_THIS, "data_dir", 1},
    {SECTION_THIS, "secret_option", 1},
};
