static int f(void)
{
    return clock_gettime(CLOCK_REALTIME, &now) + RAND_bytes(p, 1);
}
