// A stand-in for libcuda.so.1: the host's memory is the device's, kernels run in the simulator.
// Included after the kernels and the table of their wrappers. The functions behave as the driver's
// do where the launcher can tell; GRAPHOPT_SIM_* in the environment play other machines.
#include <functional>

typedef int CUresult;
typedef uint64_t CUdeviceptr;

namespace gosim {

struct Function {
  std::string name;
  void (*call)(void**);
  std::vector<size_t> sizes;  // of the parameters
  int most_shared = 48 * 1024;
};
inline std::map<std::string, Function> functions;
struct Register {
  Register(const char* name, void (*call)(void**), std::vector<size_t> sizes) {
    functions[name] = {name, call, std::move(sizes)};
  }
};

struct Stream {
  bool capturing = false;
  std::vector<std::function<CUresult()>> work;
};
inline Stream null_stream;
inline std::string last_error;
inline std::map<CUdeviceptr, std::pair<void*, size_t>> memory;  // -> mapping and its size
inline size_t allocated = 0;

inline long setting(const char* name, long otherwise) {
  const char* text = getenv(name);
  return text ? atol(text) : otherwise;
}
inline Stream* stream(void* s) { return s ? static_cast<Stream*>(s) : &null_stream; }
inline CUresult enqueue(void* s, std::function<CUresult()> work) {
  if (!stream(s)->capturing) return work();
  stream(s)->work.push_back(std::move(work));
  return 0;
}

}  // namespace gosim

extern "C" {
const char* gosim_last_error() { return gosim::last_error.c_str(); }
int gosim_run(const char* name, void** args, const unsigned* shape, size_t shared, int order) {
  auto found = gosim::functions.find(name);
  if (found == gosim::functions.end()) {
    gosim::last_error = std::string("there is no kernel ") + name;
    return 1;
  }
  gosim::last_error = gosim::launch(found->second.call, args, {shape[0], shape[1], shape[2]},
                                    {shape[3], shape[4], shape[5]}, shared, order);
  return gosim::last_error.empty() ? 0 : 1;
}

CUresult cuInit(unsigned) { return static_cast<CUresult>(gosim::setting("GRAPHOPT_SIM_INIT", 0)); }
CUresult cuDriverGetVersion(int* v) {
  *v = static_cast<int>(gosim::setting("GRAPHOPT_SIM_DRIVER", 13000));
  return 0;
}
CUresult cuDeviceGetCount(int* n) {
  *n = static_cast<int>(gosim::setting("GRAPHOPT_SIM_DEVICES", 1));
  return 0;
}
CUresult cuDeviceGet(int* d, int i) { *d = i; return 0; }
CUresult cuDeviceGetName(char* b, int n, int) {
  snprintf(b, static_cast<size_t>(n), "graphopt simulator");
  return 0;
}
CUresult cuDeviceGetAttribute(int* v, int attribute, int) {
  const int sm = static_cast<int>(gosim::setting("GRAPHOPT_SIM_SM", 90));
  *v = attribute == 75 ? sm / 10 : attribute == 76 ? sm % 10 : attribute == 16 ? 132
       : attribute == 97 ? 232448 : 0;
  return 0;
}
CUresult cuDevicePrimaryCtxRetain(void** c, int) { *c = &gosim::null_stream; return 0; }
CUresult cuDevicePrimaryCtxRelease_v2(int) { return 0; }
CUresult cuCtxSetCurrent(void*) { return 0; }
CUresult cuGetErrorName(CUresult code, const char** text) {
  *text = code == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : code == 200 ? "CUDA_ERROR_INVALID_IMAGE"
          : code == 222 ? "CUDA_ERROR_UNSUPPORTED_PTX_VERSION"
          : code == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR_UNKNOWN";
  return 0;
}
CUresult cuModuleLoadData(void** m, const void* image) {
  const auto* bytes = static_cast<const unsigned char*>(image);
  const bool cubin = bytes[0] == 0x7f && bytes[1] == 'E' && bytes[18] == 190 && bytes[19] == 0;
  const bool ptx = strstr(static_cast<const char*>(image), ".version") != nullptr;
  if (!cubin && !ptx) return 200;
  // A driver of CUDA 12 knows neither the cubins (their ELF ABI is 41) nor the PTX of toolkit 13.
  const bool old = gosim::setting("GRAPHOPT_SIM_DRIVER", 13000) < 13000;
  if (old && (ptx || bytes[7] == 41)) return ptx ? 222 : 200;
  *m = &gosim::functions;
  return 0;
}
CUresult cuModuleUnload(void*) { return 0; }
CUresult cuModuleGetFunction(void** f, void*, const char* name) {
  auto found = gosim::functions.find(name);
  if (found == gosim::functions.end()) return 500;
  *f = &found->second;
  return 0;
}
CUresult cuFuncSetAttribute(void* f, int attribute, int value) {
  if (attribute == 8) static_cast<gosim::Function*>(f)->most_shared = value;
  return value > 232448 ? 1 : 0;
}
CUresult cuMemAlloc_v2(CUdeviceptr* p, size_t n) {
  if (gosim::allocated + n > static_cast<size_t>(gosim::setting("GRAPHOPT_SIM_MEMORY", 1l << 40)))
    return 2;
  if (n == 0) return 1;
  const size_t pages = (n + gosim::PAGE - 1) / gosim::PAGE * gosim::PAGE;
  void* room = mmap(nullptr, pages + gosim::PAGE, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (room == MAP_FAILED) return 2;
  auto* base = static_cast<char*>(room);
  mprotect(base + pages, gosim::PAGE, PROT_NONE);
  *p = reinterpret_cast<CUdeviceptr>(base + pages - (n + 255) / 256 * 256);
  memset(base, 0xFF, pages);
  gosim::memory[*p] = {room, pages + gosim::PAGE};
  gosim::allocated += n;
  return 0;
}
CUresult cuMemFree_v2(CUdeviceptr p) {
  auto found = gosim::memory.find(p);
  if (found == gosim::memory.end()) return 1;
  munmap(found->second.first, found->second.second);
  gosim::memory.erase(found);
  return 0;
}
CUresult cuMemAllocHost_v2(void** p, size_t n) {
  *p = aligned_alloc(256, (n + 255) / 256 * 256);
  return *p ? 0 : 2;
}
CUresult cuMemFreeHost(void* p) { free(p); return 0; }
CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void* from, size_t n) {
  memcpy(reinterpret_cast<void*>(to), from, n);
  return 0;
}
CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void* from, size_t n, void* s) {
  return gosim::enqueue(s, [=] { memcpy(reinterpret_cast<void*>(to), from, n); return 0; });
}
CUresult cuMemcpyDtoHAsync_v2(void* to, CUdeviceptr from, size_t n, void* s) {
  return gosim::enqueue(s, [=] { memcpy(to, reinterpret_cast<void*>(from), n); return 0; });
}
CUresult cuStreamCreate(void** s, unsigned) { *s = new gosim::Stream; return 0; }
CUresult cuStreamDestroy_v2(void* s) { delete static_cast<gosim::Stream*>(s); return 0; }
CUresult cuStreamSynchronize(void*) { return 0; }
CUresult cuStreamBeginCapture_v2(void* s, int) {
  gosim::stream(s)->capturing = true;
  gosim::stream(s)->work.clear();
  return 0;
}
CUresult cuStreamEndCapture(void* s, void** graph) {
  gosim::stream(s)->capturing = false;
  *graph = new gosim::Stream(*gosim::stream(s));
  return 0;
}
CUresult cuGraphInstantiateWithFlags(void** e, void* graph, unsigned long long) {
  *e = new gosim::Stream(*static_cast<gosim::Stream*>(graph));
  return 0;
}
CUresult cuGraphDestroy(void* g) { delete static_cast<gosim::Stream*>(g); return 0; }
CUresult cuGraphExecDestroy(void* g) { delete static_cast<gosim::Stream*>(g); return 0; }
CUresult cuGraphLaunch(void* e, void*) {
  for (auto& work : static_cast<gosim::Stream*>(e)->work)
    if (CUresult code = work()) return code;
  return 0;
}
CUresult cuLaunchKernel(void* f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by,
                        unsigned bz, unsigned shared, void* s, void** args, void**) {
  auto* function = static_cast<gosim::Function*>(f);
  if (static_cast<int>(shared) > function->most_shared || gy > 65535 || gz > 65535 || !gx || !gy ||
      !gz || bx * by * bz > 1024)
    return 1;
  // The driver copies parameters when it is called.
  std::vector<std::vector<char>> copies;
  for (size_t i = 0; i < function->sizes.size(); i++) {
    const auto* from = static_cast<const char*>(args[i]);
    copies.emplace_back(from, from + function->sizes[i]);
  }
  return gosim::enqueue(s, [=]() mutable {
    std::vector<void*> places;
    for (auto& copy : copies) places.push_back(copy.data());
    gosim::last_error =
        gosim::launch(function->call, places.data(), {gx, gy, gz}, {bx, by, bz}, shared,
                      static_cast<int>(gosim::setting("GRAPHOPT_SIM_ORDER", 0)));
    if (gosim::last_error.empty()) return 0;
    fprintf(stderr, "simulated kernel %s: %s\n", function->name.c_str(), gosim::last_error.c_str());
    return 700;
  });
}
}
