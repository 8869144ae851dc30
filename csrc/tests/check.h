// A minimal test harness: CHECK stops the test with the place and the expression that failed.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

#define CHECK(condition)                                                          \
  do {                                                                            \
    if (!(condition)) {                                                           \
      std::fprintf(stderr, "%s:%d: CHECK(%s)\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                               \
    }                                                                             \
  } while (false)

// The expression must throw, with `text` somewhere in the message.
#define CHECK_THROWS(expression, text)                                                                               \
  do {                                                                                                               \
    std::string message_;                                                                                            \
    bool thrown_ = false;                                                                                            \
    try {                                                                                                            \
      (void)(expression);                                                                                            \
    } catch (const std::exception& error_) {                                                                         \
      thrown_ = true;                                                                                                \
      message_ = error_.what();                                                                                      \
    }                                                                                                                \
    if (!thrown_ || message_.find(text) == std::string::npos) {                                                      \
      std::fprintf(stderr, "%s:%d: %s: expected an error with '%s', got %s '%s'\n", __FILE__, __LINE__, #expression, \
                   text, thrown_ ? "error" : "none", message_.c_str());                                              \
      std::exit(1);                                                                                                  \
    }                                                                                                                \
  } while (false)
