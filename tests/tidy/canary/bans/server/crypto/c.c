static int f(void)
{
    if (memcmp(magic, "KLB1", 4) != 0 /* not secret */) {
        return memcmp(tag, other, 16);
    }
    memset(key, 0, 32);
    signal(SIGPIPE, SIG_IGN);
    kl_log(KL_LOG_INFO, "crypto", "x");
    return clock_gettime(CLOCK_REALTIME, &now) + RAND_bytes(p, 1);
}
