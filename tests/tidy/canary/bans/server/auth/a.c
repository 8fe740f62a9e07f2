static int f(void)
{
    return strcmp(token, other);
}
