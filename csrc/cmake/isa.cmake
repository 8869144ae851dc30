# graphopt_isa_sources(<portable|avx2|avx512|avx512_bf16|avx512_vnni|amx> files...)
#
# Compiles files for one instruction-set level and adds the objects to graphopt_kernels. Such a file
# uses intrinsics and raw pointers only: an inline function of a shared header or of the standard
# library that is compiled here could be the copy that the linker keeps for the whole program.
set(GRAPHOPT_ISA_FLAGS_portable "")
set(GRAPHOPT_ISA_FLAGS_avx2 -mavx2 -mfma -mf16c)
set(GRAPHOPT_ISA_FLAGS_avx512 -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq -mprefer-vector-width=512)
set(GRAPHOPT_ISA_FLAGS_avx512_bf16 ${GRAPHOPT_ISA_FLAGS_avx512} -mavx512bf16)
set(GRAPHOPT_ISA_FLAGS_avx512_vnni ${GRAPHOPT_ISA_FLAGS_avx512} -mavx512vnni)
set(GRAPHOPT_ISA_FLAGS_amx ${GRAPHOPT_ISA_FLAGS_avx512} -mamx-tile -mamx-bf16 -mamx-int8)

function(graphopt_isa_sources isa)
  if(NOT DEFINED GRAPHOPT_ISA_FLAGS_${isa})
    message(FATAL_ERROR "graphopt_isa_sources: unknown instruction-set level '${isa}'")
  endif()
  set(target graphopt_isa_${isa})
  if(NOT TARGET ${target})
    add_library(${target} OBJECT)
    target_link_libraries(${target} PRIVATE graphopt_options)
    # Unrolled intrinsics, instrumented at every access, take GCC minutes a file at -O3.
    set(optimize -O3)
    if(GRAPHOPT_SANITIZE)
      set(optimize -O1 -g1)
    endif()
    target_compile_options(${target} PRIVATE ${optimize} -fno-exceptions -fvisibility=hidden -ffp-contract=fast
                                             ${GRAPHOPT_ISA_FLAGS_${isa}})
    # GCC 12 calls the undefined operands of its own AVX-512 intrinsics uninitialised (its bug 105593).
    target_compile_options(${target} PRIVATE $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized -Wno-uninitialized>)
    target_sources(graphopt_kernels PRIVATE $<TARGET_OBJECTS:${target}>)
  endif()
  foreach(file IN LISTS ARGN)
    get_filename_component(path ${file} ABSOLUTE BASE_DIR ${CMAKE_CURRENT_SOURCE_DIR})
    target_sources(${target} PRIVATE ${path})
  endforeach()
endfunction()
