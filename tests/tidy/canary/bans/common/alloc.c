void *kl_malloc(size_t n)
{
    return malloc(n); /* its home: allowed */
}
