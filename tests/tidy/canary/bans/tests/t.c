static void f(void)
{
    clock_gettime(CLOCK_MONOTONIC, &now);
    rand();
}
