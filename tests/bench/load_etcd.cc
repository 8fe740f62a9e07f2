// Closed-loop load on etcd over its own gRPC API with TLS: CLIENTS calls are always under way,
// spread over a few channels. Asynchronous stubs and one completion queue per channel.
//
//   load_etcd ENDPOINT CA CERT KEY set|get CLIENTS SECONDS KEYS VALUE_BYTES

#include "etcd_kv.grpc.pb.h"
#include "tests/bench/histogram.h"

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <memory>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace
{

using etcdserverpb::KV;
using Clock = std::chrono::steady_clock;

std::string slurp(const char *path)
{
    std::ifstream in(path);
    std::ostringstream text;

    text << in.rdbuf();
    return text.str();
}

struct Work {
    std::unique_ptr<KV::Stub> stub;
    bool set = false;
    unsigned keys = 0;
    std::string value;
    Clock::time_point measure_from;
    Clock::time_point until;
    struct histogram *histogram = nullptr;
    uint64_t errors = 0;
    uint64_t next = 0;
};

struct Call {
    grpc::ClientContext context;
    grpc::Status status;
    etcdserverpb::PutResponse put;
    etcdserverpb::RangeResponse range;
    std::unique_ptr<grpc::ClientAsyncResponseReader<etcdserverpb::PutResponse>> put_reader;
    std::unique_ptr<grpc::ClientAsyncResponseReader<etcdserverpb::RangeResponse>> range_reader;
    Clock::time_point started;
};

void start(Work &w, grpc::CompletionQueue &queue)
{
    Call *call = new Call;
    std::string key = "bench/" + std::to_string(w.next++ * 7919 % w.keys);

    call->started = Clock::now();
    if (w.set) {
        etcdserverpb::PutRequest request;

        request.set_key(key);
        request.set_value(w.value);
        call->put_reader = w.stub->AsyncPut(&call->context, request, &queue);
        call->put_reader->Finish(&call->put, &call->status, call);
    } else {
        etcdserverpb::RangeRequest request;

        request.set_key(key);
        call->range_reader = w.stub->AsyncRange(&call->context, request, &queue);
        call->range_reader->Finish(&call->range, &call->status, call);
    }
}

void run(Work &w, unsigned outstanding)
{
    grpc::CompletionQueue queue;
    unsigned open = outstanding;
    void *tag = nullptr;
    bool ok = false;

    for (unsigned i = 0; i < outstanding; i++) {
        start(w, queue);
    }
    while (open > 0 && queue.Next(&tag, &ok)) {
        std::unique_ptr<Call> call(static_cast<Call *>(tag));
        auto now = Clock::now();
        bool good = ok && call->status.ok() && (w.set || call->range.count() == 1);

        if (!good) {
            w.errors++;
        } else if (now >= w.measure_from && now < w.until) {
            histogram_add(w.histogram, static_cast<uint64_t>(
                                           std::chrono::duration_cast<std::chrono::microseconds>(
                                               now - call->started)
                                               .count()));
        }
        if (now < w.until) {
            start(w, queue);
        } else {
            open--;
        }
    }
}

double cpu_seconds()
{
    struct timespec t;

    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return static_cast<double>(t.tv_sec) + static_cast<double>(t.tv_nsec) / 1e9;
}

} // namespace

int main(int argc, char **argv)
{
    if (argc != 10) {
        std::fprintf(stderr,
                     "load_etcd ENDPOINT CA CERT KEY set|get CLIENTS SECONDS KEYS VALUE_BYTES\n");
        return 2;
    }
    const unsigned clients = static_cast<unsigned>(std::strtoul(argv[6], nullptr, 10));
    const double seconds = std::strtod(argv[7], nullptr);
    const unsigned channels = clients >= 64 ? 2 : 1;
    grpc::SslCredentialsOptions tls{slurp(argv[2]), slurp(argv[4]), slurp(argv[3])};
    auto credentials = grpc::SslCredentials(tls);
    std::vector<Work> works(channels);
    std::vector<struct histogram> histograms(channels);
    std::vector<std::thread> threads;
    auto begin = Clock::now() + std::chrono::milliseconds(500);
    struct histogram all = {};
    uint64_t errors = 0;

    for (unsigned i = 0; i < channels; i++) {
        grpc::ChannelArguments arguments;

        arguments.SetInt("bench.channel", static_cast<int>(i)); // no sharing of subchannels
        works[i].stub = KV::NewStub(grpc::CreateCustomChannel(argv[1], credentials, arguments));
        works[i].set = std::string(argv[5]) == "set";
        works[i].keys = static_cast<unsigned>(std::strtoul(argv[8], nullptr, 10));
        works[i].value = std::string(std::strtoul(argv[9], nullptr, 10), 'v');
        works[i].measure_from = begin;
        works[i].until = begin + std::chrono::milliseconds(static_cast<int64_t>(seconds * 1000));
        works[i].histogram = &histograms[i];
        works[i].next = i * 104729U;
    }
    double cpu = cpu_seconds();
    for (unsigned i = 0; i < channels; i++) {
        unsigned share = clients / channels + (i < clients % channels ? 1 : 0);

        threads.emplace_back(run, std::ref(works[i]), share);
    }
    for (auto &thread : threads) {
        thread.join();
    }
    for (unsigned i = 0; i < channels; i++) {
        for (size_t b = 0; b < HISTOGRAM_BUCKETS; b++) {
            all.count[b] += histograms[i].count[b];
        }
        all.total += histograms[i].total;
        all.max_us = histograms[i].max_us > all.max_us ? histograms[i].max_us : all.max_us;
        errors += works[i].errors;
    }
    histogram_print(&all, argv[5], clients, seconds, errors, cpu_seconds() - cpu);
    return errors == 0 ? 0 : 1;
}
