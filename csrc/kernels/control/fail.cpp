// Step kernel `fail`: a branch that cannot run for the sizes that the program was compiled for.
#include <memory>
#include <string>

#include "graphopt/kernel.h"

namespace graphopt {
namespace {

class FailKernel final : public Kernel {
 public:
  explicit FailKernel(const Attrs& attrs) : reason_(attrs.s("reason")) {}

  void run(KernelArgs& /*args*/) const override { throw Error(reason_); }

 private:
  std::string reason_;
};

}  // namespace

std::unique_ptr<Kernel> make_fail(const Attrs& attrs) { return std::make_unique<FailKernel>(attrs); }

}  // namespace graphopt
