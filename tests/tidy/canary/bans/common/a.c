/* malloc(1) in a comment is fine */
static void f(struct ops *ops)
{
    char *p = malloc(10);
    ops->free(p);
    my_free(p);
    free (p);
    strcpy(p, "free(p)");
    n = atoi(p);
    q = strtok(p, ",");
    r = rand();
    t = time(NULL);
    pthread_mutex_lock(&m);
    system("true");
    sleep(1);
    abort();
    printf("%d", n); // and another style of comment
}
typedef struct a a_t;
#pragma once
#define TRY(x) if (!(x)) { return 1; }
#define FINE(x) do_return(x)
